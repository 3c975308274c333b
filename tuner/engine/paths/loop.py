"""One slot after another: for models that vmap cannot take (LSTM, F.dropout, control flow on values), and large ones.

Dropout layers draw by counters (`dropout.py`); whatever else draws does so from the trial's own stream.
"""

import traceback
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuner.engine.architecture import Tensors
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import Stream, draws_of
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.forward import Forward
from tuner.engine.seeds import STOCHASTIC_LAYERS, derive
from tuner.engine.slots import Ints, Slots
from tuner.workloads.task import Data

MEASURED_EVERY, MEASURED_AT = 4, 1
"""Of so many steps of the loop, the one in which several micro-batches of a tick are seen apart."""


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
