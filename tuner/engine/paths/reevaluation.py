"""The loss again, at other parameters: rules with a line search request it in the middle of a step.

The same applies to its second derivative: Hessian-vector products, for rules that use curvature.

The function is the one whose gradient the step uses: the mean over its B examples, micro-batch by micro-batch, with the
same dropout masks and augmentation, and the slot's current buffers, which it does not change. With B = all training
examples it is the full training loss.

Only the requesting slots are computed, in separate passes with a fixed number of rows: as in the stack itself, the bits
of a row do not depend on the content of the others.
"""

import traceback
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.data_order import take_each
from tuner.engine.layers.dropout import Stream
from tuner.engine.loader import AnyFeed
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.forward import EagerForward, Forward
from tuner.engine.paths.loop import LoopForward
from tuner.engine.seeds import example_seeds
from tuner.engine.slots import Ints, Slots
from tuner.optimizers.rule import Curvature

ROWS = 8
"""Most rows per pass: slots are rarely due together, and an unused row costs as much as a used one."""

FLAT = "flat"
"""The name under which elementwise rules get all parameters as one tensor [n, P]."""


class Reevaluation:
    """Evaluates the slots of one stack; `forward` is the stack's own, whose extras are read.

    `stackable`: rows may share an eager pass.
    """

    def __init__(
        self,
        architecture: Architecture,
        feed: AnyFeed,
        slots: Slots,
        forward: Forward,
        stream: Stream,
        stackable: bool,
    ) -> None:
        self._layout = architecture.layout
        self._feed = feed
        self._slots = slots
        self._stack = forward
        self._stream = stream
        self._failures: dict[int, str] = {}
        self._architecture = architecture
        self._rows = min(ROWS, len(forward.params))
        self._stackable = stackable

    @cached_property
    def _forward(self) -> EagerForward | LoopForward:
        """The program of the passes, built on demand: few stacks ever need its memory."""
        kind = EagerForward if self._stackable else LoopForward
        return kind(self._architecture, self._layout.allocate(self._rows, self._architecture.device))

    def take_failures(self) -> dict[int, str]:
        """Return slot -> traceback of exceptions in the workload's code since the last call."""
        failures, self._failures = self._failures, {}
        return failures

    def for_slots(self, due: Ints) -> Curvature:
        """Return the function from parameters [n, ...] of the n due slots to their losses [n] and gradients.

        Parameters and gradients are named as the rule has them. A slot whose evaluation raises gets the loss NaN.
        """
        return _SlotLoss(self, due)

    def parts(self, due: Ints) -> list[tuple[Ints, Tensor]]:
        """Divide the due slots into passes: for each, its slots and their example numbers [K, rows, b]."""
        rows = self._rows
        parts = [due[start : start + rows] for start in range(0, len(due), rows)]
        return [(part, self._examples(part)) for part in parts]

    def compute(
        self, parts: list[tuple[Ints, Tensor]], params: Tensors, vectors: Tensors | None = None
    ) -> tuple[Tensor, Tensors]:
        """Return losses [n] and gradients of the slots, or zeros and the products of the Hessians with `vectors`."""
        flat, along = self._flat(params), None if vectors is None else self._flat(vectors)
        losses, gradients, start = flat.new_zeros(len(flat)), torch.zeros_like(flat), 0
        for part, index in parts:
            place = slice(start, start + len(part))
            start += len(part)
            own = None if along is None else along[place]
            self._pass(part, index, flat[place], losses[place], gradients[place], own)
        return losses, {FLAT: gradients} if FLAT in params else self._layout.views(gradients)

    def _pass(
        self,
        part: Ints,
        index: Tensor,
        params: Tensor,
        losses: Tensor,
        gradients: Tensor,
        vectors: Tensor | None,
    ) -> None:
        """Fill losses [n] and gradients [n, P] of some slots; `index` [K, rows, b] names their examples.

        With `vectors` [n, P] the gradients are the products of the Hessians with them.
        """
        forward = self._forward
        forward.params.zero_()
        forward.params[: len(part)].copy_(params)
        along = None if vectors is None else torch.zeros_like(forward.params)
        if along is not None and vectors is not None:
            along[: len(part)].copy_(vectors)
        counts = self._slots.ticks_per_step[part]
        for tick in range(len(index)):
            for row, slot in enumerate(part.tolist()):
                forward.extras[row] = self._stack.extras[slot]  # a pass writes new buffers there
            found = self._run(part, index, tick, along)
            takes_part = torch.from_numpy(tick < counts).to(params.device)
            losses += torch.where(takes_part, found[: len(part)], 0.0)
            gradients += torch.where(takes_part[:, None], forward.gradients[: len(part)], 0.0)
        divisor = torch.from_numpy(counts).to(params.device, params.dtype)
        losses /= divisor
        gradients /= divisor[:, None]

    def _run(self, part: Ints, index: Tensor, tick: int, vectors: Tensor | None) -> Tensor:
        """Return the losses [rows] of one micro-batch of each row; zeros with `vectors`, which use a different pass."""
        size = self._slots.tick_examples

        def stream(row: int) -> tuple[int, int]:
            slot = int(part[row])
            return self._stream(slot)[0], self._first_example(slot) + tick * size

        try:
            seeds = np.zeros(index[tick].shape, np.uint64)
            for row in range(len(part)):
                seeds[row] = example_seeds(*stream(row), size)
            data, slots = self._feed.gather(index[tick], seeds), np.arange(len(part))
            if vectors is None:
                losses = self._forward.run(data, slots, stream)
            else:
                losses = self._forward.params.new_zeros(len(self._forward.params))
                self._forward.hessian_vector(data, slots, stream, vectors)
            failures = self._forward.failures
        except Exception as raised:  # the trials' boundary: it is unknown which slot raised it
            if is_out_of_memory(raised):
                raise  # a narrower stack may help: the caller decides
            losses = self._forward.params.new_zeros(len(self._forward.params))
            failures = dict.fromkeys(range(len(part)), traceback.format_exc())
        for row, error in failures.items():
            self._failures[int(part[row])] = error
            losses[row] = torch.nan
            self._forward.gradients[row].zero_()
        return losses

    def _examples(self, part: Ints) -> Tensor:
        """Return the example numbers [K, rows, b] of the step that each slot is about to complete."""
        counts, size = self._slots.ticks_per_step[part], self._slots.tick_examples
        index = np.zeros((int(counts.max()), len(self._forward.params), size), np.int64)
        slots = part.tolist()
        orders = [self._feed.order(self._stream(slot)[0]) for slot in slots]
        found = take_each(orders, [self._first_example(slot) for slot in slots], int(counts.max()) * size)
        for row, count in enumerate(counts.tolist()):
            index[:count, row] = found[row, : count * size].reshape(count, size)
        return torch.from_numpy(index).to(self._forward.params.device)

    def _first_example(self, slot: int) -> int:
        """Return the position in the trial's stream at which the slot's current step began."""
        return int(self._slots.step[slot] * self._slots.ticks_per_step[slot]) * self._slots.tick_examples

    def _flat(self, params: Tensors) -> Tensor:
        if FLAT in params:
            return params[FLAT].detach()
        first = next(iter(params.values()))
        flat = self._layout.allocate(len(first), first.device)
        for name, view in self._layout.views(flat).items():
            view.copy_(params[name].detach())
        return flat


class _SlotLoss:
    """The loss of the due slots on the examples of the step that each is about to complete: a `Curvature`."""

    def __init__(self, reevaluation: Reevaluation, due: Ints) -> None:
        self._reevaluation = reevaluation
        self._parts = reevaluation.parts(due)

    def __call__(self, params: Tensors) -> tuple[Tensor, Tensors]:
        """See `Reevaluation.for_slots`."""
        return self._reevaluation.compute(self._parts, params)

    def hessian_vector(self, params: Tensors, vectors: Tensors) -> Tensors:
        """See `Curvature.hessian_vector`; a slot whose evaluation raises gets zeros."""
        return self._reevaluation.compute(self._parts, params, vectors)[1]
