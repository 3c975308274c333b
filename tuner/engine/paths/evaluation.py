"""Validation: the loss and the workload's metrics over all validation examples, in evaluation mode.

On the compiled path and on GPUs small models are evaluated several slots at a time, as one vmapped program over rows
gathered from the stack; otherwise slot by slot, as also when one evaluation costs much more than a call's overhead, or
when vmap cannot handle the model or a metric. The choice is made when a stack is built, from counts and a dry run,
never by timing. What draws from torch's generator is evaluated slot by slot, from the trial's seed and step (vmap
refuses it). What `tuner.draws` draws comes from the trial's seed alone: two evaluations of a trial differ by its
weights, not by luck. Invariant: a pass always has the same number of rows, so a slot's results do not depend on how
many others are evaluated with it.
"""

import logging
import traceback
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tuner.engine.architecture import Architecture, Tensors, run
from tuner.engine.extras import Extras
from tuner.engine.layers import stackable
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import Stream, draws_of
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.compiled import Program, compile_once, first_call
from tuner.engine.paths.scores import Scores
from tuner.engine.seeds import EVALUATION, derive
from tuner.engine.validation_data import ValidationData
from tuner.workloads.examples import Data

log = logging.getLogger(__name__)

ROWS = 8
"""Most slots per pass."""
STACKED_FLOPS = {"cpu": 2**23, "cuda": 2**36}
"""Most floating-point operations of one slot's evaluation for which several slots share a pass."""
TRIED = 3
"""Number of models in a dry run."""

Metrics = dict[str, float]


class Evaluation:
    """Evaluates parameters, with the `extras` of their slots, on the validation data."""

    def __init__(
        self,
        architecture: Architecture,
        data: ValidationData,
        extras: Callable[[int, Tensor], Tensors],
        stream: Stream,
        width: int,
        compiled: bool,
    ) -> None:
        """At most `width` slots share a pass, as a compiled program if requested; 1 means slot by slot.

        `extras` returns a slot's extras at parameters [P]; from `stream`, its (seed, examples seen), a model or metric
        draws that is random in evaluation too.
        """
        self._architecture = architecture
        self._data = data
        self._extras = extras
        self._stream = stream
        self._scores = Scores(architecture, data)
        self.names = self._scores.names
        """What `metrics` returns."""
        self._device = architecture.device
        self.rows = 1
        """Slots per pass."""
        self._program: Program | None = None
        self._repeated: Tensors = {}
        """Shared tensors as [rows, ...], where the program needs them so."""
        gains = compiled or self._device.type == "cuda"  # run eagerly on a CPU, sharing saves nothing
        if width > 1 and gains and self._scores.stackable and self._flops() <= STACKED_FLOPS.get(self._device.type, 0):
            self._program = self._stacked_program(min(ROWS, width), compiled)

    def metrics(self, slots: Sequence[int], rows: Sequence[Tensor]) -> list[Metrics]:
        """Return `valid_loss` and `valid_<name>` for each metric, per slot. Exceptions of the workload propagate.

        `rows` [P] are the slots' parameters.
        """
        values = []
        for start in range(0, len(slots), self.rows):
            part = slice(start, start + self.rows)
            values += self._pass(slots[part], rows[part])
        return [dict(zip(self.names, row, strict=True)) for row in values]

    def each(self, slots: Sequence[int], rows: Sequence[Tensor]) -> list[Metrics | str]:
        """Return the metrics per slot, or the traceback of an exception that the workload's code raised in its pass."""
        found: list[Metrics | str] = []
        for start in range(0, len(slots), self.rows):
            part = slice(start, start + self.rows)
            try:
                found += self.metrics(slots[part], rows[part])
            except Exception as error:  # the trials' boundary: the workload's own code runs here
                if is_out_of_memory(error):
                    raise
                found += [traceback.format_exc()] * len(slots[part])
        return found

    def _pass(self, slots: Sequence[int], rows: Sequence[Tensor]) -> list[list[float]]:
        """Return the values of up to `self.rows` slots, each [metrics]."""
        if self._program is None:
            return [self._single(rows[0], self._extras(slots[0], rows[0]), *self._stream(slots[0])).tolist()]
        idle = self.rows - len(slots)
        own = [self._extras(slot, row) for slot, row in zip(slots, rows, strict=True)]
        own += [own[0]] * idle
        extras = {name: torch.stack([each[name] for each in own]) for name in own[0]}
        keys = [self._key(self._stream(slot)[0]) for slot in slots]
        keys += [keys[0]] * idle
        values = self._stacked(self._program, torch.stack([*rows, *[rows[0]] * idle]), extras, torch.stack(keys))
        return values[: len(slots)].tolist()

    def _single(self, row: Tensor, extras: Tensors, seed: int, seen: int) -> Tensor:
        """Return the values [metrics] of one row [P] of parameters of a trial."""
        with self._architecture.evaluation(), drawing(self._device):
            draw_from(derive(seed, EVALUATION, seen), self._device)
            params = self._architecture.layout.slot_views(row)
            values = self._scores.values(self._architecture.evaluating, {**params, **extras}, self._key(seed)).detach()
        self._architecture.shared.check()
        return values

    def _key(self, seed: int) -> Tensor:
        """Return the key [2] of what `tuner.draws` draws in the evaluations of a trial."""
        return draws_of(derive(seed, EVALUATION), 0, 1, self._device)[0]

    def _stacked(self, program: Program, rows: Tensor, extras: Tensors, keys: Tensor) -> Tensor:
        """Return the values [rows, metrics] of parameters [rows, P], with the keys [rows, 2]."""
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # attention's fused kernels have no batching rule on CPUs
            values = program(rows, (*extras.values(), *self._repeated.values()), keys, self._data.resident)
        self._architecture.shared.check()
        return values

    def _stacked_program(self, rows: int, compiled: bool) -> Program | None:
        """Return (params [rows, P], extras, keys, data) -> values [rows, metrics]; None if that is impossible."""
        shared = self._architecture.shared
        for repeated in [{}, shared.repeated(rows)] if shared.tensors else [{}]:
            self._repeated = repeated
            program, reason = self._tried_program(rows, compiled)
            if reason is None:
                self.rows = rows
                return program
        self._repeated = {}
        log.info("trials are evaluated one by one", extra={"action": "evaluation", "reason": reason})
        return None

    def _tried_program(self, rows: int, compiled: bool) -> tuple[Program, str | None]:
        """Return the program, and what is wrong with it."""
        model, names = (
            self._architecture.copy(self._architecture.evaluating),
            [*self._architecture.extras(self._architecture.training), *self._repeated],
        )
        views = self._architecture.layout.views
        stackable.install(model)

        def program(params: Tensor, extras: tuple[Tensor, ...], keys: Tensor, data: Data) -> Tensor:
            def values(params: Tensors, extras: Tensors, key: Tensor) -> Tensor:
                return self._scores.values(model, {**params, **extras}, key, data)

            result: Tensor = vmap(values)(views(params), dict(zip(names, extras, strict=True)), keys)
            return result

        built = compile_once(program) if compiled else program
        try:
            reason = self._fault(built, rows)
        except Exception as error:  # vmap, metrics and the compiler raise various exceptions
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return built, reason

    def _fault(self, program: Program, count: int) -> str | None:
        """Return what is wrong with a program's results for a few new models, in two orders."""
        modules = [self._architecture.build(place % TRIED) for place in range(count)]
        rows = self._architecture.layout.allocate(count, self._device)
        extras = Extras(self._architecture.extras(modules[0]), count)
        for place, module in enumerate(modules):
            self._architecture.layout.write(rows[place], dict(module.named_parameters()))
            extras[place] = self._architecture.extras(module)
        keys = torch.stack([self._key(place % TRIED) for place in range(count)])
        turned = torch.arange(count, device=self._device).roll(1)
        with warnings.catch_warnings(), first_call():
            warnings.filterwarnings("error", message=".*batching rule.*")  # vmap would run it slot by slot
            values = self._stacked(program, rows, extras.stacked, keys)
            values_turned = self._stacked(program, rows[turned], extras.rows(turned), keys[turned])
        single = torch.stack([self._single(rows[place], extras[place], place, 0) for place in range(min(count, TRIED))])
        if not torch.equal(values[turned].nan_to_num(), values_turned.nan_to_num()):
            return "its results under vmap depend on the slot"
        if not torch.allclose(values[:TRIED], single, rtol=1e-3, atol=1e-5, equal_nan=True):
            return "its results under vmap differ from those of a single model"
        return None

    def _flops(self) -> int:
        """Count the operations of one slot's evaluation; infinity if they cannot be counted."""
        counter = FlopCounterMode(display=False)
        try:
            with torch.no_grad(), drawing(self._device), self._architecture.values.sampled(), counter:
                run(self._architecture.evaluating, {}, self._data.structure.inputs(self._data.part(0, 1)))
        except Exception:  # a model that cannot run fails the trial, not the stack
            return 2**62
        return counter.get_total_flops() * len(self._data)
