"""Stepping the due rows of an elementwise rule without treatment, in place; what depends on no gradient is had before.

Three ways, chosen once per rule, so that no trial's bits depend on its neighbours:

    Compiled   one masked program over all rows or, where rows are long and few are due, over each due row
    Kernels    torch's fused kernel, once per due row: on a CPU, where a call costs less than ten passes over memory
    Passes     the rule's own operations over all rows where all are due, else over copies of those that are

A rule may make 0/0 of a row's padding, so each way leaves zeros there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tuner.engine.layout import Layout
from tuner.engine.paths.compiled import MaskedUpdate
from tuner.engine.slots import Ints
from tuner.optimizers.rule import ElementwiseRule
from tuner.optimizers.torch_kernels import Kernel, own_threads

CHUNK = 512
"""Steps of a schedule, and of a rule's scalars, computed at once."""
MASKED_BYTES = 2**22
"""Up to this buffer size [width, P] a compiled pass covers all rows in any case: a call per row costs more."""
MASKED_SHARE = 3
"""One compiled pass covers all rows if at least one in this many is due; otherwise each due row has its own."""


class ElementwiseUpdate(ABC):
    """The updates of the slots of one rule."""

    @abstractmethod
    def work_out(self, slot: int, steps: Tensor, hp: Mapping[str, Tensor]) -> None:
        """Prepare a slot's updates number `steps` [n] (float64), the n <= CHUNK of its current chunk.

        `hp` holds the rule's own hyperparameters, float64 [n], on the host; lr includes the schedule's factor.
        """

    @abstractmethod
    def run(self, due: Ints, place: Ints, counts: Tensor, params: Tensor, sums: Tensor, slabs: list[Tensor]) -> None:
        """Step the due slots with the mean sums / counts, and set their sums to zero.

        `place` [width] is that of each slot's update in its chunk, `counts` [width] of the parameters' type; all else
        is [width, P], and slabs beyond the rule's own are left alone.
        """


def elementwise_update(rule: ElementwiseRule, layout: Layout, like: Tensor, compiled: bool) -> ElementwiseUpdate:
    """Choose the way for a rule; `like` is the buffer [width, P] of the parameters."""
    if compiled:
        return Compiled(rule, layout, like)
    kernel = rule.kernel() if like.device.type == "cpu" else None
    return Passes(rule, layout, like) if kernel is None else Kernels(rule, kernel, layout, like)


class Scalars:
    """A rule's scalars of the slots' current chunks, [width, CHUNK, S], in the parameters' type."""

    def __init__(self, rule: ElementwiseRule, like: Tensor) -> None:
        self._rule = rule
        self.names = rule.scalar_names()
        self.table = torch.zeros(len(like), CHUNK, len(self.names), dtype=like.dtype, device=like.device)

    def work_out(self, slot: int, steps: Tensor, hp: Mapping[str, Tensor]) -> None:
        """See `ElementwiseUpdate.work_out`."""
        found = self._rule.scalars(steps, hp)
        self.table[slot, : len(steps)].copy_(torch.stack([found[name] for name in self.names], 1))

    def at(self, rows: Tensor, place: Ints) -> Tensor:
        """Return those of some rows [n] at their places [n], [n, S]."""
        return self.table[rows, torch.from_numpy(place).to(rows.device, non_blocking=True)]


class Compiled(ElementwiseUpdate):
    """One compiled program over all rows, or over each due row: the same bits."""

    def __init__(self, rule: ElementwiseRule, layout: Layout, like: Tensor) -> None:
        self._masked = MaskedUpdate(rule, like, layout.real)
        self._single = MaskedUpdate(rule, like[:1], layout.real) if like.nbytes > MASKED_BYTES else None
        self._scalars = Scalars(rule, like)
        self._rows = torch.arange(len(like), device=like.device)
        self._yes = torch.ones(1, dtype=torch.bool, device=like.device)

    def work_out(self, slot: int, steps: Tensor, hp: Mapping[str, Tensor]) -> None:
        """See `ElementwiseUpdate.work_out`."""
        self._scalars.work_out(slot, steps, hp)

    def run(self, due: Ints, place: Ints, counts: Tensor, params: Tensor, sums: Tensor, slabs: list[Tensor]) -> None:
        """See `ElementwiseUpdate.run`."""
        if self._single is not None and len(due) * MASKED_SHARE < len(params):
            for slot in due.tolist():
                row = slice(slot, slot + 1)
                scalars, own = self._scalars.table[row, place[slot]], [slab[row] for slab in slabs]
                self._single.run(self._yes, counts[row], scalars, params[row], sums[row], own)
            return
        mask = np.zeros(len(params), bool)
        mask[due] = True
        scalars = self._scalars.at(self._rows, place)
        self._masked.run(torch.from_numpy(mask).to(params.device), counts, scalars, params, sums, slabs)


class Kernels(ElementwiseUpdate):
    """torch's kernel for each due row: whole 64-byte lines, so the same bits in any slot and on any threads."""

    def __init__(self, rule: ElementwiseRule, kernel: Kernel, layout: Layout, like: Tensor) -> None:
        width = len(like)
        self._kernel = kernel
        self._padding = torch.nonzero(~layout.real).flatten()
        self._buffers = len(rule.own_buffers("vector"))
        self._hp: list[dict[str, float]] = [{} for _ in range(width)]
        self._lr: list[list[float]] = [[] for _ in range(width)]
        """Of each slot's chunk."""
        self._first = np.zeros(width)
        self._steps, self._scales = torch.zeros(width), torch.ones(width)
        self._views: list[list[list[Tensor]]] = []
        """Per slot one list per buffer, as the kernel takes them: making them costs as much as a call."""
        self._viewed: list[Tensor] = []

    def work_out(self, slot: int, steps: Tensor, hp: Mapping[str, Tensor]) -> None:
        """See `ElementwiseUpdate.work_out`."""
        self._hp[slot] = {name: float(value[0]) for name, value in hp.items()}
        self._lr[slot] = hp["lr"].tolist()
        self._first[slot] = float(steps[0])

    def run(self, due: Ints, place: Ints, counts: Tensor, params: Tensor, sums: Tensor, slabs: list[Tensor]) -> None:
        """See `ElementwiseUpdate.run`."""
        own = slabs[: self._buffers]
        views = self._rows_of([params, sums, self._steps, self._scales, *own])
        self._steps.copy_(torch.from_numpy(self._first + place))
        self._scales.copy_(counts)
        at = place.tolist()
        with own_threads(params.shape[1]):
            for slot in due.tolist():
                param, grad, step, scale, *buffers = views[slot]
                hp = self._hp[slot]
                hp["lr"] = self._lr[slot][at[slot]]
                self._kernel(param, grad, buffers, step, hp, scale[0])
        for changed in (params, *own):
            changed.index_fill_(1, self._padding, 0.0)
        clear(sums, due)

    def _rows_of(self, buffers: list[Tensor]) -> list[list[list[Tensor]]]:
        if len(buffers) != len(self._viewed) or any(a is not b for a, b in zip(buffers, self._viewed, strict=True)):
            self._viewed = buffers
            self._views = [[[row] for row in rows] for rows in zip(*(each.unbind() for each in buffers), strict=True)]
        return self._views


class Passes(ElementwiseUpdate):
    """The rule's own operations: in place where all rows are due, else on copies."""

    def __init__(self, rule: ElementwiseRule, layout: Layout, like: Tensor) -> None:
        self._rule = rule
        self._names = rule.own_buffers("vector")
        self._padding = torch.nonzero(~layout.real).flatten().to(like.device)
        self._scalars = Scalars(rule, like)
        self._all = torch.arange(len(like), device=like.device)

    def work_out(self, slot: int, steps: Tensor, hp: Mapping[str, Tensor]) -> None:
        """See `ElementwiseUpdate.work_out`."""
        self._scalars.work_out(slot, steps, hp)

    def run(self, due: Ints, place: Ints, counts: Tensor, params: Tensor, sums: Tensor, slabs: list[Tensor]) -> None:
        """See `ElementwiseUpdate.run`."""
        everyone = len(due) == len(params)
        rows = self._all if everyone else torch.from_numpy(due).to(params.device, non_blocking=True)
        whole = [params, sums, counts, *slabs[: len(self._names)]]
        param, total, count, *own = whole if everyone else [each.index_select(0, rows) for each in whole]
        columns = dict(zip(self._scalars.names, self._scalars.at(rows, place[due]).unbind(1), strict=True))
        mean = total / count[:, None]
        self._rule.step_elements(mean, param, dict(zip(self._names, own, strict=True)), columns)
        for changed, target in zip((param, *own), (params, *whole[3:]), strict=True):
            changed.index_fill_(1, self._padding, 0.0)
            if not everyone:
                target.index_copy_(0, rows, changed)
        clear(sums, due)


def clear(sums: Tensor, due: Ints) -> None:
    """Set the due rows of [width, P] to zero."""
    if len(due) == len(sums):
        sums.zero_()
    else:
        sums.index_fill_(0, torch.from_numpy(due).to(sums.device), 0.0)
