"""Losses and gradients of all slots on their micro-batches.

Two paths give the same mathematics: `eager` runs all slots as one vmapped program; `loop` runs them one after another,
for models that vmap cannot take (LSTM, F.dropout, control flow on values). A dry run decides; its verdict is logged,
never an error. Dropout layers draw by counters (`dropout.py`); whatever else draws on the loop path does so from the
trial's own stream.
"""

import logging
import re
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.extras import Extras
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import Draws, Stream, draws_of, stacked_draws
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive
from tuner.engine.slots import Ints, Slots
from tuner.errors import InvalidInput
from tuner.workloads.task import Data

log = logging.getLogger(__name__)

TRIED = 3
"""Slots of a dry run."""
MEASURED_EVERY, MEASURED_AT = 4, 1
"""Of so many steps of the loop, the one in which several micro-batches of a tick are seen apart."""
SLOT_DEPENDENT = "its losses or gradients under vmap depend on the slot"


class Forward(ABC):
    """Computes gradients into a flat buffer, and new buffers into `extras`, which also holds what else is a slot's own.

    A tick is one pass over `per_tick` micro-batches of each slot. `gradients` [width * per_tick, P] has a row for each
    micro-batch, those of a slot one after another.
    """

    path: str

    def __init__(self, architecture: Architecture, params: Tensor, per_tick: int = 1) -> None:
        """`params` is the buffer [width, P] of the parameters."""
        self.architecture = architecture
        self.params = params
        self.per_tick = per_tick
        self.extras = Extras(architecture.extras(architecture.build(0)), len(params))
        self.failures: dict[int, str] = {}
        """Slot -> traceback, of the last call."""

    @cached_property
    def gradients(self) -> Tensor:
        """The result of `run`, in a buffer that is allocated when it is first needed."""
        return self.architecture.layout.allocate(len(self.params) * self.per_tick, self.params.device)

    @abstractmethod
    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """Return losses [width * per_tick] and fill `gradients`.

        `data` is (inputs, *targets), each [width, per_tick * b, ...]; `slots` are the occupied ones; `stream` gives a
        slot's (seed, examples seen), from which stochastic layers draw.
        """

    def accumulate(
        self, data: Data, sums: Tensor, counts: Tensor, slots: Slots, stream: Stream, found: Tensor
    ) -> Tensor | None:
        """Add the micro-batch gradients of a tick to `sums` [width, P].

        Fills `found` [3, width] (float64) with the losses, the squared norms of the micro-batch gradients (means over
        the tick's) and those of the means sums / K, `counts` [width] being K; NaN where a norm is not measured. What is
        cheaper to take when a slot is due is left out: then the row for the means' norms is returned, to be filled when
        slots are stepped.
        """
        found[0].copy_(self._of_slots(self.run(data, slots.busy(), stream)))
        wanted = self.per_tick > 1 or slots.measures_noise
        if wanted:
            found[1].copy_(self._of_slots(squared_norm(self.gradients)))
        sums.add_(self._of_slots(self.gradients))
        return found[2] if wanted else None

    def _of_slots(self, rows: Tensor) -> Tensor:
        """Return the slots' means [width, ...] of their micro-batches' rows [width * per_tick, ...]."""
        return rows if self.per_tick == 1 else slots_of(rows, self.per_tick).mean(1)


def parts_of(item: Tensor, per_tick: int) -> Tensor:
    """Return [width, per_tick * b, ...] as [width, per_tick, b, ...]."""
    return item.reshape(len(item), per_tick, -1, *item.shape[2:])


def slots_of(rows: Tensor, per_tick: int) -> Tensor:
    """Return [width * per_tick, ...] as [width, per_tick, ...]."""
    return rows.view(-1, per_tick, *rows.shape[1:])


def stacked_gradients(
    architecture: Architecture, per_tick: int
) -> Callable[..., tuple[Tensors, tuple[Tensor, Tensors]]]:
    """Return the function that gives the gradients of all slots' micro-batches: vmap over slots, and over their parts.

    It takes parameters and extras [width, ...], draws and data [width, per_tick * b, ...], and returns gradients and
    losses [width * per_tick, ...] and the new buffers [width, ...]: those of the last part, since only models whose
    passes leave their buffers alone have several (`splitting.py`).
    """

    def loss(params: Tensors, extras: Tensors, draws: Draws, data: Data) -> tuple[Tensor, Tensors]:
        return architecture.loss(params, extras, draws, *data, stacked=True)

    one = grad_and_value(loss, has_aux=True)
    if per_tick == 1:
        return cast(Callable[..., tuple[Tensors, tuple[Tensor, Tensors]]], vmap(one))
    parts = vmap(vmap(one, in_dims=(None, None, (None, 0) if architecture.draws else (), 0)))

    def program(params: Tensors, extras: Tensors, draws: Draws, data: Data) -> tuple[Tensors, tuple[Tensor, Tensors]]:
        draws = (draws[0], parts_of(draws[1], per_tick)) if draws else ()
        split = tuple(parts_of(item, per_tick) for item in data)
        gradients, (losses, buffers) = parts(params, extras, draws, split)
        rows = {name: gradient.flatten(0, 1) for name, gradient in gradients.items()}
        return rows, (losses.flatten(), {name: buffer[:, -1] for name, buffer in buffers.items()})

    return program


class EagerForward(Forward):
    """All slots as one vmapped program, free ones included (their numbers are ignored).

    Products with shared tensors are computed slot by slot (`apart`), or for all slots at once: less work, in kernels
    that may treat slots differently (`together.py`).
    """

    path = "eager"

    def __init__(self, architecture: Architecture, params: Tensor, per_tick: int = 1, *, apart: bool = True) -> None:
        super().__init__(architecture, params, per_tick)
        self._repeated = architecture.shared.repeated(len(params)) if apart else {}
        self._views = architecture.layout.views(params)
        self._into = architecture.layout.views(self.gradients)
        self._attends: bool | None = None

        def loss(params: Tensors, extras: Tensors, draws: Draws, data: Data) -> tuple[Tensor, Tensors]:
            return architecture.loss(params, extras, draws, *data, stacked=True)

        def turned(params: Tensors, vectors: Tensors, extras: Tensors, draws: Draws, data: Data) -> Tensors:
            def slope(params: Tensors) -> Tensor:
                gradients = grad(loss, has_aux=True)(params, extras, draws, data)[0]
                slopes = [(gradients[name] * vectors[name]).sum() for name in vectors]
                return torch.stack(slopes).sum()

            result: Tensors = grad(slope)(params)
            return result

        self._program = stacked_gradients(architecture, per_tick)
        self._products = vmap(turned)

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`. An error is raised: it cannot be assigned to a slot."""
        width, count = data[0].shape[:2]
        needed = self.architecture.draws
        draws = stacked_draws(width, slots, stream, count, self.params.device) if needed else ()
        with self._kernels():
            gradients, (losses, buffers) = self._program(self._views, self.extras.stacked | self._repeated, draws, data)
        self.architecture.shared.check()
        for name, view in self._into.items():
            view.copy_(gradients[name])
        for name, buffer in buffers.items():
            self.extras.stacked[name].copy_(buffer)
        result: Tensor = losses
        return result

    def hessian_vector(self, data: Data, slots: Ints, stream: Stream, vectors: Tensor) -> None:
        """Fill `gradients` with the Hessians of the same losses as in `run` times `vectors` [width, P].

        By differentiating the gradient's product with the vector, which more layers allow than forward mode.
        """
        width, count = data[0].shape[:2]
        draws = stacked_draws(width, slots, stream, count, self.params.device) if self.architecture.draws else ()
        along = self.architecture.layout.views(vectors)
        with self._kernels():
            found = self._products(self._views, along, self.extras.stacked | self._repeated, draws, data)
        for name, view in self._into.items():
            view.copy_(found[name])

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        """Use attention's plain kernel where it is needed, since the fused ones have no batched form on CPUs.

        Choosing it costs time, a twelfth of a tick of one small model, so the first call watches for attention.
        """
        if self._attends is False:
            yield
            return
        with sdpa_kernel(SDPBackend.MATH), _AttentionWatch() if self._attends is None else nullcontext() as watch:
            yield
        self._attends = watch.seen if watch is not None else True


class _AttentionWatch(TorchFunctionMode):
    """Notes whether attention is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchFunctionMode`."""
        self.seen |= func in (scaled_dot_product_attention, multi_head_attention_forward)
        return func(*args, **(kwargs or {}))


class LoopForward(Forward):
    """One slot after another. An error of one is kept in `failures` and does not touch the others.

    Where a tick has several micro-batches, most steps compute them in one pass, which costs what the user's own loop
    costs. Their parts, and with them the noise, are seen in one of `MEASURED_EVERY` steps.
    """

    path = "loop"

    def run(self, data: Data, slots: Ints, stream: Stream) -> Tensor:
        """See `Forward.run`; one micro-batch per slot."""
        losses = self.params.new_zeros(len(self.params))

        def run_one(slot: int) -> None:
            losses[slot], gradients = self._one(slot, *stream(slot), tuple(item[slot] for item in data))
            _add(self.architecture.layout.slot_views(self.gradients[slot]), gradients, replace=True)

        self._each(slots, run_one)
        return losses

    def hessian_vector(self, data: Data, slots: Ints, stream: Stream, vectors: Tensor) -> None:
        """See `EagerForward.hessian_vector`."""

        def turn_one(slot: int) -> None:
            own = tuple(item[slot] for item in data)
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels can be differentiated once
                _, products = self._one(slot, *stream(slot), own, vectors[slot])
            _add(self.architecture.layout.slot_views(self.gradients[slot]), products, replace=True)

        self._each(slots, turn_one)

    def accumulate(
        self, data: Data, sums: Tensor, counts: Tensor, slots: Slots, stream: Stream, found: Tensor
    ) -> Tensor | None:
        """See `Forward.accumulate`. Gradients are added where they belong without a copy between: rows may be long."""
        found[0].zero_()
        found[1:].fill_(torch.nan)

        def add_one(slot: int) -> None:
            ticks, tick = int(slots.ticks_per_step[slot]), int(slots.tick_in_step[slot])
            split = self.per_tick > 1 and int(slots.step[slot]) % MEASURED_EVERY == MEASURED_AT
            parts = self.per_tick if split else 1
            measured = split or (self.per_tick == 1 and ticks > 1)
            (seed, seen), total = stream(slot), self.architecture.layout.slot_views(sums[slot])
            losses, squares = [], []
            for part, own in enumerate(zip(*(item[slot].tensor_split(parts) for item in data), strict=True)):
                loss, gradients = self._one(slot, seed, seen + part * len(own[0]), own)
                losses.append(loss)
                if measured:
                    squares.append(_squared_norm([each for each in gradients if each is not None]))
                _add(total, gradients, 1 / parts, replace=tick == part == 0)
            found[0, slot] = sum(losses) / parts
            if measured:
                found[1, slot] = sum(squares) / parts
            if measured and tick + 1 == ticks:
                found[2, slot] = _squared_norm([sums[slot]]) / ticks**2

        self._each(slots.busy(), add_one)
        return None

    def _each(self, slots: Ints, act: Callable[[int], None]) -> None:
        self.failures = {}
        with drawing(self.params.device):
            for slot in slots.tolist():
                try:
                    act(slot)
                except Exception as error:  # the trial's boundary: the workload's own code runs here
                    if is_out_of_memory(error):
                        raise
                    self.failures[slot] = traceback.format_exc()

    def _one(
        self, slot: int, seed: int, seen: int, data: Data, vector: Tensor | None = None
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return a slot's loss on one micro-batch and its gradients, or the Hessian's products with `vector` [P]."""
        layout = self.architecture.layout
        draw_from(derive(seed, STOCHASTIC_LAYERS, seen), self.params.device)
        params = {n: v.detach().requires_grad_() for n, v in layout.slot_views(self.params[slot]).items()}
        draws = draws_of(seed, seen, len(data[0]), self.params.device) if self.architecture.draws else ()
        extras = self.extras[slot]
        loss, buffers = self.architecture.loss(params, extras, draws, *data)
        self.architecture.shared.check()
        leaves, twice = list(params.values()), vector is not None
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss, leaves, create_graph=twice, allow_unused=True, materialize_grads=twice
        )
        if vector is not None:
            along = layout.slot_views(vector).values()
            pairs = zip(gradients, along, strict=True)
            slopes = [(each * own).sum() for each, own in pairs if each is not None and each.requires_grad]
            gradients = [torch.zeros_like(leaf) for leaf in leaves]
            if slopes:
                gradients = torch.autograd.grad(torch.stack(slopes).sum(), leaves, allow_unused=True)
        for name, buffer in buffers.items():
            extras[name].copy_(buffer.detach())
        return loss.detach(), gradients


def squared_norm(rows: Tensor) -> Tensor:
    """Return |row|^2 of each row of [n, P], float64 [n]: rounded once per element, added up in float64."""
    return (rows * rows).sum(1, dtype=torch.float64)


def _squared_norm(parts: Sequence[Tensor]) -> Tensor:
    """Return the squared norm of all parts together, float64 [], in one pass over memory and in their own type."""
    return torch.stack(torch._foreach_norm(list(parts))).double().square().sum()


def _add(total: Tensors, gradients: Sequence[Tensor | None], factor: float = 1.0, *, replace: bool) -> None:
    """Add gradients, times a factor, to their views in `total`, or put them there."""
    for view, gradient in zip(total.values(), gradients, strict=True):
        if gradient is not None and not replace:
            view.add_(gradient, alpha=factor)
        elif gradient is not None and factor == 1.0:
            view.copy_(gradient)
        elif gradient is not None:
            torch.mul(gradient, factor, out=view)
        elif replace:
            view.zero_()


def fault_of_vmap(architecture: Architecture, train: Data, micro_batch: int, per_tick: int = 1) -> str | None:
    """Try the model under vmap with a few slots on a tick of training data; return what is wrong, or None.

    Its results also have to agree with those of `loop`, and every slot to get its bits wherever it stands
    (`SLOT_DEPENDENT`): a model may run under vmap and yet mix its slots.
    """
    index = torch.arange(TRIED * per_tick * micro_batch, device=train[0].device) % len(train[0])
    sample = tuple(item[index].view(TRIED, per_tick * micro_batch, *item.shape[1:]) for item in train)
    order = list(range(TRIED))
    turned = order[1:] + order[:1]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*batching rule.*")  # it would run slot by slot inside
            found = _tried(EagerForward, architecture, sample, order, per_tick)
            found_turned = _tried(EagerForward, architecture, sample, turned, per_tick)
    except Exception as error:  # what vmap cannot take shows in many kinds of error
        if is_out_of_memory(error):
            raise
        return _in_words(error)
    try:
        if not agrees_with_loop(architecture, sample, *found, per_tick):
            return "its losses or gradients under vmap differ from those of a single model"
    except InvalidInput as error:
        return str(error).rstrip().rpartition("\n")[2]
    slots, slots_turned = ([slots_of(item, per_tick) for item in each] for each in (found, found_turned))
    if not all(_same_bits(one[turned], other) for one, other in zip(slots, slots_turned, strict=True)):
        return SLOT_DEPENDENT
    return None


def _in_words(error: Exception) -> str:
    operation = re.search(r"batching rule for (\S+?)\.? ", str(error))
    if operation is not None:
        return f"PyTorch has no batched form of {operation[1]}"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def agrees_with_loop(
    architecture: Architecture, sample: Data, losses: Tensor, gradients: Tensor, per_tick: int = 1
) -> bool:
    """Whether these [n * per_tick], [n * per_tick, P] are what `loop` computes, micro-batch by micro-batch, for fresh
    models of seeds 0 to n - 1 on a sample [n, per_tick * b, ...]; or [n], [n, P], the slots' means of that.

    Raises `InvalidInput` with its traceback when a model cannot run at all.
    """
    count = len(sample[0])
    single = tuple(item.reshape(count * per_tick, -1, *item.shape[2:]) for item in sample)
    losses_single, gradients_single = _tried(LoopForward, architecture, single, list(range(count)), per_tick)
    if len(losses) == count:
        losses_single, gradients_single = (
            slots_of(item, per_tick).mean(1) for item in (losses_single, gradients_single)
        )
    rough = architecture.task.precision == "bf16"  # 8 bits of a product's factors
    loose = 20 if rough else 1
    size = gradients_single.nan_to_num().abs().max().item() if rough else 1e-2
    close = torch.allclose(losses, losses_single, rtol=1e-3 * loose, atol=1e-5, equal_nan=True)
    return close and torch.allclose(gradients, gradients_single, rtol=1e-2 * loose, atol=1e-2 * size, equal_nan=True)


def _tried(
    kind: type[EagerForward] | type[LoopForward],
    architecture: Architecture,
    sample: Data,
    seeds: list[int],
    per_tick: int,
) -> tuple[Tensor, Tensor]:
    """Return losses and gradients of fresh models of these seeds, each on its seed's part of the sample.

    The loop gets a row for each micro-batch, with the same model.
    """
    alone = kind is LoopForward and per_tick > 1
    rows = [seed for seed in seeds for _ in range(per_tick)] if alone else seeds
    size = len(sample[0][0])
    params = architecture.layout.allocate(len(rows), architecture.device)
    forward = kind(architecture, params, 1 if alone else per_tick)
    for slot, seed in enumerate(rows):
        module = architecture.build(seed)
        architecture.layout.write(params[slot], dict(module.named_parameters()))
        forward.extras[slot] = architecture.extras(module)
    own = sample if alone else tuple(item[seeds] for item in sample)
    losses = forward.run(own, np.arange(len(rows)), lambda slot: (rows[slot], slot % per_tick * size if alone else 0))
    if forward.failures:
        raise InvalidInput(next(iter(forward.failures.values())))
    return losses, forward.gradients


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())
