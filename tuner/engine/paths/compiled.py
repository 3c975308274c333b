"""The compiled path: forward, backward and accumulation of all slots as one program; one more per elementwise rule.

Inductor compiles outside vmap, so a tick of a small model costs a few kernels instead of a few hundred dispatches.
Invariants:

- A program's shapes are fixed when it is built: admission, eviction and who is due are values, never shapes.
- Updates use single-rounding operations only, so a pass over all rows and a pass over one row give the same bits: which
  of them ran (it depends on the neighbours) cannot be seen in a trial's numbers. Eager kernels do not give these bits
  (on CPUs their square root comes from a library that rounds otherwise), so the two are never mixed for one rule.
- Rows are whole 64-byte lines, so no kernel over [width, P] has a tail that would be rounded differently.

Compiling needs a C++ compiler. It takes seconds to a minute the first time and is cached on disk
(TORCHINDUCTOR_CACHE_DIR).
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.layers.dropout import Draws, Stream, stacked_draws
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.dry_run import TRIED, agrees_with_loop
from tuner.engine.paths.forward import Forward, slots_of, stacked_gradients
from tuner.engine.paths.replay import Replay
from tuner.engine.paths.together import clear, even, fill, models_tried
from tuner.engine.slots import Ints, Slots
from tuner.errors import InvalidInput
from tuner.optimizers.one_pass import has_compiler
from tuner.optimizers.rule import ElementwiseRule
from tuner.workloads.task import Data

log = logging.getLogger(__name__)

Program = Callable[..., Tensor]


def compiled_forward(
    architecture: Architecture, params: Tensor, sample: Data, per_tick: int = 1
) -> "CompiledForward | None":
    """Compile a stack's forward program for data like `sample`; None, and one line in the log, where that fails."""
    reason: str | None = "there is no C++ compiler (CXX, else g++)"
    for apart in () if not has_compiler() else (False, True) if architecture.shared.tensors else (True,):
        forward = CompiledForward(architecture, params, per_tick, apart=apart)
        try:
            with first_call():
                forward.try_out(sample)
            return forward
        except Exception as error:  # the compiler fails with many kinds of error
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    log.warning("the stack is not compiled and runs eagerly", extra={"action": "path", "reason": reason})
    return None


class CompiledForward(Forward):
    """All slots as one compiled program that also adds the gradients up and takes their norms."""

    path = "compiled"

    def __init__(
        self, architecture: Architecture, params: Tensor, per_tick: int = 1, *, norms: bool = True, apart: bool = True
    ) -> None:
        """Without `norms` the squared norms are zero: what a tick costs when noise is not measured.

        `apart`: products with shared tensors are computed slot by slot, see `EagerForward`.
        """
        super().__init__(architecture, params, per_tick)
        self._apart = apart
        repeated = architecture.shared.repeated(len(params)) if apart else {}
        self._replay: Replay | None = None
        self._recorded_for: tuple[int, int] | None = None
        """Addresses of the buffers that the recorded graph holds."""
        self._program = compile_once(_forward_program(architecture, list(self.extras), repeated, norms, per_tick))

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`; one step's gradients are the sums over one micro-batch."""
        sums = self.gradients[: len(self.params)].zero_()
        return self.tick(data, sums, torch.ones_like(sums[:, 0]), slots, stream)[0]

    def accumulate(
        self, data: Data, sums: Tensor, counts: Tensor, slots: Slots, stream: Stream, found: Tensor
    ) -> Tensor | None:
        """See `Forward.accumulate`. An error is raised: it cannot be assigned to a slot."""
        found.copy_(self.tick(data, sums, counts, slots.busy(), stream))
        return None

    def tick(self, data: Data, sums: Tensor, counts: Tensor, slots: Ints, stream: Stream) -> Tensor:
        """Add the micro-batch gradients to `sums` and update the slots' buffers; return what `accumulate` fills in.

        On a GPU the next call overwrites the result.
        """
        width, count = data[0].shape[:2]
        draws = stacked_draws(width, slots, stream, count, sums.device) if self.architecture.draws else ()
        call = self._replayed if sums.is_cuda else self._call
        found = call(sums, counts, draws, data)
        self.architecture.shared.check()
        return found

    def try_out(self, sample: Data) -> None:
        """Compile for data like `sample`; raise `InvalidInput` unless the program does what the stack promises.

        The slots get a few models over and over. Equal ones must have equal bits, since kernels may treat the last
        slots unlike the others, and the results must be those of the loop.
        """
        width, count = sample[0].shape[:2]
        models, needed = min(width, TRIED) if self._apart else models_tried(width), self.architecture.draws
        fill(self, models)
        sums, counts = torch.zeros_like(self.params), torch.ones_like(self.params[:, 0])
        draws: Draws = ()
        if needed:
            draws = stacked_draws(width, np.arange(width), lambda slot: (slot % models, 0), count, sums.device)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no batched form on every device
            found = self._call(sums, counts, draws, sample)
        equal = even([found.T, sums, *self.extras.stacked.values()], models)
        clear(self)
        if not equal:
            raise InvalidInput("its numbers depend on the slot")
        few = tuple(item[:models] for item in sample)
        means = found[0, :models].to(sums.dtype), sums[:models]
        if not agrees_with_loop(self.architecture, few, *means, self.per_tick):
            raise InvalidInput("its numbers differ from those of a single model")

    def _call(self, sums: Tensor, counts: Tensor, draws: Draws, data: Data) -> Tensor:
        with torch.no_grad():
            return self._program(self.params, sums, counts, tuple(self.extras.stacked.values()), draws, data)

    def _replayed(self, sums: Tensor, counts: Tensor, draws: Draws, data: Data) -> Tensor:
        """Run the program as a CUDA graph, recorded when these buffers are first seen."""
        fixed, split = (sums.data_ptr(), counts.data_ptr()), len(draws)
        if self._replay is None or self._recorded_for != fixed:
            self._recorded_for = fixed
            self._replay = Replay(
                lambda t: self._call(sums, counts, tuple(t[:split]), tuple(t[split:])), [*draws, *data]
            )
        return self._replay([*draws, *data])


class MaskedUpdate:
    """One elementwise rule's step of the due slots, in place over [width, P], as one compiled pass over memory."""

    def __init__(self, rule: ElementwiseRule, like: Tensor, real: Tensor) -> None:
        """`like` is the buffer [width, P] of parameters: what it is compiled for; `real` [P] (bool) is not padding."""
        self.rule = rule
        self._real = real.to(like.device)
        scalar_names = self.scalar_names = rule.scalar_names()
        buffer_names = rule.own_buffers("vector")
        self._slabs = len(buffer_names)

        def update(
            due: Tensor, real: Tensor, counts: Tensor, scalars: Tensor, params: Tensor, sums: Tensor, *slabs: Tensor
        ) -> None:
            mask = due[:, None] & real
            new_param, new_slabs = params.clone(), [slab.clone() for slab in slabs]
            columns = dict(zip(scalar_names, scalars.unbind(1), strict=True))
            rule.step_elements(
                sums / counts[:, None], new_param, dict(zip(buffer_names, new_slabs, strict=True)), columns
            )
            for old, new in zip((params, *slabs), (new_param, *new_slabs), strict=True):
                old.copy_(torch.where(mask, new, old))
            sums.copy_(torch.where(mask, 0.0, sums))

        self._program = compile_once(update)
        rows = [torch.zeros_like(like) for _ in range(2 + self._slabs)]
        counts = torch.ones(len(like), dtype=like.dtype, device=like.device)
        scalars = torch.ones(len(like), len(scalar_names), dtype=like.dtype, device=like.device)
        with first_call():
            self.run(counts.bool(), counts, scalars, rows[0], rows[1], rows[2:])

    def run(
        self, due: Tensor, counts: Tensor, scalars: Tensor, params: Tensor, sums: Tensor, slabs: list[Tensor]
    ) -> None:
        """Step the slots where `due` [width] (bool) with the mean sums / counts, and set their sums to zero.

        `scalars` [width, S] are the rule's own (`scalar_names`), in the parameters' type; all else is [width, P] and
        changes in place.
        """
        with torch.no_grad():
            self._program(due, self._real, counts, scalars, params, sums, *slabs[: self._slabs])


def _forward_program(
    architecture: Architecture, names: list[str], repeated: Tensors, norms: bool, per_tick: int
) -> Program:
    """`names` are those of the extras, which the program takes as [width, ...] each and changes in place."""
    layout = architecture.layout
    stacked = stacked_gradients(architecture, per_tick)

    def of_slots(values: Tensor) -> Tensor:
        return values if per_tick == 1 else slots_of(values, per_tick).mean(1)

    def forward(
        params: Tensor, sums: Tensor, counts: Tensor, extras: tuple[Tensor, ...], draws: Draws, data: Data
    ) -> Tensor:
        carried = dict(zip(names, extras, strict=True))
        gradients, (losses, buffers) = stacked(layout.views(params), carried | repeated, draws, data)
        for name, buffer in buffers.items():
            carried[name].copy_(buffer)
        flat = layout.flat(gradients)
        total = sums + of_slots(flat)
        sums.copy_(total)
        squares = [torch.zeros_like(counts, dtype=torch.float64)] * 2
        if norms:
            squares = [(rows * rows).sum(1, dtype=torch.float64) for rows in (flat, total)]
            squares = [of_slots(squares[0]), squares[1] / (counts.to(torch.float64) * counts.to(torch.float64))]
        return torch.stack([of_slots(losses.to(torch.float64)), *squares])

    return forward


@contextmanager
def first_call() -> Iterator[None]:
    """Silence warnings while the first call compiles: users need not hear of the compiler's own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compile_once(program: Any) -> Program:
    """Compile a program that will only ever see the shapes, types and structure of its first call.

    It returns a tensor or None, and takes tensors and tuples of them.
    """
    return _Once(program)


class _Once:
    """A program whose compiled code is called without the compiler's own entry, which costs a small tick a tenth.

    The first call goes through that entry, and shows which arguments the code takes in which order. Compiled code is
    kept per code object, with guards that choose among its versions: a copy of the code object makes this program
    independent of others built here, and having one version it needs no guards.
    """

    def __init__(self, program: Any) -> None:
        code = program.__code__.replace()
        own = FunctionType(code, program.__globals__, program.__name__, program.__defaults__, program.__closure__)
        options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        self._entry = torch.compile(own, fullgraph=True, dynamic=False, backend=self._compile, options=options)
        self._code: Callable[..., Sequence[Any]] | None = None
        self._seen: tuple[list[Tensor], Sequence[Any]] | None = None
        """What the code took and gave in the first call."""
        self._takes: list[int | Tensor] = []
        """Places among the arguments, or tensors that the program itself holds."""
        self._gives: int | None = None

    def __call__(self, *args: Any) -> Any:
        if not self._takes:
            return self._first(args)
        flat = _flat(args)
        assert self._code is not None
        given = self._code(*[flat[one] if isinstance(one, int) else one for one in self._takes])
        return None if self._gives is None else given[self._gives]

    def _compile(self, graph: Any, inputs: Any) -> Callable[..., Sequence[Any]]:
        from torch._inductor.compile_fx import compile_fx

        made: Any = compile_fx(graph, inputs, config_patches={"size_asserts": False, "alignment_asserts": False})
        code: Callable[..., Sequence[Any]] = getattr(made, "__wrapped__", made)  # less a guard against being traced
        self._code = code

        def watched(*taken: Any) -> Sequence[Any]:
            given = code(*taken)
            self._seen = list(taken), given
            return given

        return watched

    def _first(self, args: tuple[Any, ...]) -> Any:
        result = self._entry(*args)
        assert self._seen is not None
        (taken, given), self._seen = self._seen, None
        places = {id(each): place for place, each in enumerate(_flat(args))}
        if result is not None:
            self._gives = next(place for place, each in enumerate(given) if each is result)
        self._takes = [places.get(id(each), each) for each in taken]
        return result


def _flat(args: Iterable[Any]) -> list[Tensor]:
    flat: list[Tensor] = []
    for each in args:
        flat.extend(each) if isinstance(each, tuple) else flat.append(each)
    return flat
