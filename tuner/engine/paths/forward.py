"""Losses and gradients of all slots on their micro-batches: the contract, and all slots as one vmapped program.

Three paths give the same mathematics: `eager`, here; `compiled` (`compiled.py`); and `loop` (`loop.py`), one slot after
another. A dry run decides (`dry_run.py`); its verdict is logged, never an error.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.extras import Extras
from tuner.engine.layers.dropout import Draws, Stream, stacked_draws
from tuner.engine.slots import Ints, Slots
from tuner.workloads.task import Data


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


def squared_norm(rows: Tensor) -> Tensor:
    """Return |row|^2 of each row of [n, P], float64 [n]: rounded once per element, added up in float64."""
    return (rows * rows).sum(1, dtype=torch.float64)
