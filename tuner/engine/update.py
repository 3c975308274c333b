"""Applying update rules to the slots that are due.

Rows of due slots that share a rule are gathered, stepped together and scattered back; free and waiting slots are not
touched. Elementwise rules without treatment are stepped in place (`elementwise.py`). State lives in flat slabs [width,
P], reinterpreted by each slot's rule and zeroed when a slot's trial changes, so any slot may have any rule; state of
other shapes is kept in a pool per rule. Schedules, and the scalars of elementwise rules, are computed in chunks. What a
rule raises is the failure of the slots for which it raises: a group in which one does is stepped slot by slot, with the
same bits.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner import schedules
from tuner.engine.compiled_rows import CompiledRows
from tuner.engine.elementwise import CHUNK as LR_CHUNK
from tuner.engine.elementwise import clear
from tuner.engine.layout import Layout
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.forward import squared_norm
from tuner.engine.rule_group import RuleGroup
from tuner.engine.rule_groups import RuleGroups
from tuner.engine.slots import Ints, Slots
from tuner.engine.trial import TrialSpec
from tuner.errors import Fault, InvalidInput
from tuner.optimizers.rule import Evaluate, Role, State
from tuner.study.hyperparameter import Scalar


class Updates:
    """The optimizers of all slots."""

    def __init__(
        self,
        layout: Layout,
        roles: Mapping[str, Role],
        names: Sequence[str],
        slots: Slots,
        params: Tensor,
        compiled: bool = False,
    ) -> None:
        """`names` are those of all parameters of the model, frozen ones too, in its own order."""
        width = len(params)
        self._slots = slots
        self._padding = torch.nonzero(~layout.real).flatten().to(params.device)
        self.counts = torch.ones(width, dtype=params.dtype, device=params.device)
        """Ticks of each slot's step."""
        self._rule_groups = RuleGroups(layout, roles, names, params, compiled)
        self._groups: list[RuleGroup] = self._rule_groups.each
        self._group_of: Ints = np.full(width, -1, np.int64)
        self._lr_factor = np.ones((width, LR_CHUNK))
        self._totals = [0] * width
        self._schedules: list[Callable[[int, int], NDArray[np.float64]] | None] = [None] * width
        self.slabs: list[Tensor] = []
        self.evaluate_for: Callable[[Ints], Evaluate] | None = None
        """Due slots -> their loss at other parameters, for rules that need it."""
        self._failures: dict[int, str] = {}

    def take_failures(self) -> dict[int, str]:
        """Return slot -> traceback of exceptions in rules since the last call; their parameters are as they were."""
        failures, self._failures = self._failures, {}
        return failures

    def admit(self, slot: int, spec: TrialSpec, params: Tensor, step: int = 0) -> None:
        """Give a slot its rule, hyperparameters and empty state, at `step` updates. `params` is the buffer [width, P].

        Raises `InvalidInput` for an unknown optimizer or schedule, for illegal values, and for a parameter group that
        the optimizer cannot honour or whose pattern matches nothing.
        """
        schedule = _schedule(spec)
        group, numbers = self._rule_groups.find(spec.params)
        while len(self.slabs) < group.slabs:
            self.slabs.append(torch.zeros_like(params))
        group.table[slot] = numbers
        for slab in self.slabs:
            slab[slot].zero_()
        for other in self._groups:
            other.pool.release(slot)
        if group.pool.size:
            group.pool.take(slot)
        self._group_of[slot] = self._groups.index(group)
        self._schedules[slot] = schedule
        self._totals[slot] = spec.total_steps
        self.counts[slot] = spec.batch_size // self._slots.tick_examples
        self._work_out(slot, step)

    def slabs_of(self, slot: int) -> list[Tensor]:
        """Return the slabs [width, P] that the rule of an occupied slot uses; its rows in all others are zero."""
        return self.slabs[: self._groups[self._group_of[slot]].slabs]

    def apply(self, due: Ints, params: Tensor, sums: Tensor, squared_norms: Tensor | None) -> None:
        """Step the due slots with the mean of the ticks' gradients summed in `sums` [width, P], then zero their sums.

        `squared_norms` [width], float64, receives the squared norm of that mean if it is needed.
        """
        if squared_norms is not None:
            counts = self.counts.double()
            squared_norms.copy_(squared_norm(sums).div_(counts * counts))
        step = self._slots.step[due]
        stale = due[(step % LR_CHUNK == 0) & (step > 0)]  # admission has computed the first chunk
        for slot in stale.tolist():
            self._guarded(np.array([slot]), self._next_chunk)
        due = np.array([slot for slot in due.tolist() if slot not in self._failures], np.int64)
        groups = self._group_of[due]
        for number, group in enumerate(self._groups):
            own = due[groups == number]
            if len(own):
                self._guarded(own, partial(self._step_group, group, params, sums))

    def _guarded(self, slots: Ints, act: Callable[[Ints], None]) -> None:
        """Act on some slots; where that raises, on each alone, so that the others do not miss their step."""
        try:
            act(slots)
        except Exception as error:  # the trials' boundary: a rule may refuse what it is given
            if is_out_of_memory(error):
                raise  # a narrower stack may help: the caller decides
            if len(slots) == 1:
                self._failures[int(slots[0])] = traceback.format_exc()
                return
            for slot in slots:
                self._guarded(np.array([slot]), act)

    def _next_chunk(self, slots: Ints) -> None:
        for slot in slots.tolist():
            self._work_out(slot, int(self._slots.step[slot]))

    def _step_group(self, group: RuleGroup, params: Tensor, sums: Tensor, due: Ints) -> None:
        if group.elementwise is not None:
            group.elementwise.run(due, self._slots.step % LR_CHUNK, self.counts, params, sums, self.slabs)
            return
        program = group.compiled
        later = due[self._slots.step[due] > 0] if program is not None else due[:0]
        if len(later) < len(due):
            first = np.setdiff1d(due, later)
            self._guarded(first, lambda slots: self._step(group, slots, params, sums))
        if program is not None:
            step = partial(self._step_compiled, group, program, params, sums)
            for start in range(0, len(later), program.size):
                self._guarded(later[start : start + program.size], step)  # no failure repeats the passes before it

    def _step_compiled(self, group: RuleGroup, program: CompiledRows, params: Tensor, sums: Tensor, due: Ints) -> None:
        slots = program.padded(due)
        rows, step = torch.from_numpy(slots), self._slots.step[slots]
        table = group.table.index_select(0, rows)
        table[:, group.names.index("lr")] *= torch.from_numpy(self._lr_factor[slots, step % LR_CHUNK])
        whole = (params, sums, self.counts, *self.slabs[: group.slabs])
        values, total, counts, *slabs = (each.index_select(0, rows) for each in whole)
        pool = group.pool.gather(slots) if group.pool.size else None
        program.run(values, total, counts, torch.from_numpy(step.astype(np.float64)), table, slabs, pool)
        rows, own = rows[: len(due)], slice(len(due))
        for target, content in zip((params, *self.slabs), (values, *slabs), strict=False):
            target.index_copy_(0, rows, content[own])
        if pool is not None:
            group.pool.scatter(due, pool[own])
        clear(sums, due)

    def _step(self, group: RuleGroup, due: Ints, params: Tensor, sums: Tensor) -> None:
        device, step = params.device, self._slots.step[due]
        rows = torch.from_numpy(due).to(device, non_blocking=True)
        factor = torch.from_numpy(self._lr_factor[due, step % LR_CHUNK]).to(device, non_blocking=True)
        mean = sums.index_select(0, rows).div_(self.counts.index_select(0, rows)[:, None])
        values = params.index_select(0, rows)
        state, hp, slabs, pool = self._gather(group, due, rows)
        hp["lr"] = hp["lr"] * factor
        evaluate = self.evaluate_for(due) if self.evaluate_for is not None and group.rule.needs_loss else None
        applied = group.applied
        applied.step(applied.views(mean), applied.views(values), state, hp, evaluate)
        if group.rule.elementwise:
            for whole in (values, *slabs):
                whole.index_fill_(1, self._padding, 0.0)
        params.index_copy_(0, rows, values)
        for slab, content in zip(self.slabs, slabs, strict=False):
            slab.index_copy_(0, rows, content)
        if pool is not None:
            group.pool.scatter(due, pool)
        clear(sums, due)

    def _gather(
        self, group: RuleGroup, slots: Ints, rows: Tensor
    ) -> tuple[State, dict[str, Tensor], list[Tensor], Tensor | None]:
        """Copy state and hyperparameters of some slots of a group; also return the rows that the state refers to."""
        hp = dict(zip(group.names, group.table.index_select(0, rows).unbind(1), strict=True))
        slabs = [slab.index_select(0, rows) for slab in self.slabs[: group.slabs]]  # other rules may use more
        step = self._slots.step[slots]
        state = State(torch.from_numpy(step.astype(np.float64)).to(rows.device), tuple(step.tolist()))
        group.applied.fill_buffers(state, slabs)
        pool = group.pool.gather(slots) if group.pool.size else None
        if pool is not None:
            group.pool.show(pool, state)
        return state, hp, slabs, pool

    def averages(self, slot: int) -> bool:
        """Return whether a slot's result differs from its parameters."""
        return bool(self._groups[self._group_of[slot]].rule.averages)

    def result(self, slot: int, params: Tensor) -> Tensor:
        """Return the row [P] to evaluate and to keep: its parameters, or the rule's average."""
        group = self._groups[self._group_of[slot]]
        if not self.averages(slot):
            return params[slot]
        slots = np.array([slot])
        state, hp, _, _ = self._gather(group, slots, torch.from_numpy(slots).to(params.device))
        views = group.applied.views(params[slot : slot + 1])
        row: Tensor = group.applied.flat(group.rule.evaluation_params(views, state, hp))[0]
        return row

    def results(self, slots: Sequence[int], params: Tensor) -> dict[int, Tensor]:
        """Return `result` for each slot whose rule gives one; see `take_failures` for the others."""
        found: dict[int, Tensor] = {}

        def find(own: Ints) -> None:
            for slot in own.tolist():
                found[slot] = self.result(slot, params)

        self._guarded(np.array(slots, np.int64), find)
        return {slot: row for slot, row in found.items() if slot not in self._failures}

    def pool_row(self, slot: int) -> Tensor | None:
        """Return a slot's pooled state [Q] as a view, or None if its rule has none."""
        pool = self._groups[self._group_of[slot]].pool
        return pool.row(slot) if pool.size else None

    def _work_out(self, slot: int, step: int) -> None:
        """Fill the slot's chunk of schedule factors that contains `step`."""
        schedule = self._schedules[slot]
        start = step // LR_CHUNK * LR_CHUNK
        count = min(LR_CHUNK, max(1, self._totals[slot] - start))
        if schedule is not None:
            self._lr_factor[slot, :count] = schedule(start, count)
        group = self._groups[self._group_of[slot]]
        steps = torch.arange(start + 1, start + count + 1, dtype=torch.float64)
        group.work_out(slot, steps, torch.from_numpy(self._lr_factor[slot, :count]))


def _schedule(spec: TrialSpec) -> Callable[[int, int], NDArray[np.float64]]:
    """Return the function from (first step, number of steps) to the schedule's factors."""
    name = str(spec.params.get("schedule", "constant"))
    known = schedules.catalogue()
    if name not in known:
        raise InvalidInput([Fault("schedule", f"is {name!r}; known are: {', '.join(known)}")])
    chosen = tuple((p.name, spec.params[p.name]) for p in known[name].parameters if p.name in spec.params)
    factors = partial(_factors, name, spec.total_steps, chosen)
    factors(0, 1)  # reject illegal parameters now, not in the middle of a tick
    return factors


@lru_cache(maxsize=256)
def _factors(
    name: str, total: int, chosen: tuple[tuple[str, Scalar], ...], start: int, count: int
) -> NDArray[np.float64]:
    """Cached: many trials of a study share their schedule."""
    t = torch.arange(start, start + count, dtype=torch.float64)
    return np.asarray(schedules.multiplier(name, t, float(total), **dict(chosen)))
