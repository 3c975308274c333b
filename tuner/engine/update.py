"""Applying each slot's update rule to the slots that are due.

Rows of due slots that share a rule are gathered, stepped together and scattered back; free and waiting slots are not
touched. On the compiled path an elementwise rule gathers nothing: it makes one masked pass over all rows or, where rows
are long and few are due, one pass over each due row, with the same bits. State lives in flat slabs [width, P],
reinterpreted by each slot's rule and zeroed when a slot changes hands, so any slot may have any rule. Schedules, and on
the compiled path all scalars, are worked out ahead in chunks.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner import schedules
from tuner.engine.compiled import MaskedUpdate
from tuner.engine.layout import Layout
from tuner.engine.slots import Ints, Slots
from tuner.engine.trial import TrialSpec
from tuner.errors import Fault, InvalidInput
from tuner.optimizers.catalogue import check_hyperparameters, defaults, rule_class
from tuner.optimizers.rule import ElementwiseRule, Evaluate, Role, Rule, State, Tensors
from tuner.study.hyperparameter import Scalar

LR_CHUNK = 512
"""Steps of a schedule worked out at once."""

MASKED_SHARE = 3
"""On the compiled path all rows are passed over when at least one in so many is due, else each due one by itself."""
MASKED_BYTES = 2**22
"""A buffer [width, P] up to this size is passed over in any case: a call per row costs more."""

_FLAT = "flat"


class RuleGroup:
    """One update rule and the hyperparameters [width, H] of the slots that use it."""

    def __init__(self, rule: Rule, like: Tensor, compiled: bool) -> None:
        width, device = len(like), like.device
        self.rule = rule
        self.names = [h.name for h in rule.hyperparameters]
        self.lr_column = self.names.index("lr")
        self.table = torch.zeros(width, len(self.names), dtype=torch.float64, device=device)
        self.masked = MaskedUpdate(rule, like) if compiled and isinstance(rule, ElementwiseRule) else None
        self.single: MaskedUpdate | None = None
        """The same for one row, where rows are long."""
        if self.masked is not None:
            self.single = MaskedUpdate(self.masked.rule, like[:1]) if like.nbytes > MASKED_BYTES else None
            shape = (width, LR_CHUNK, len(self.masked.scalar_names))
            self.scalars = torch.zeros(shape, dtype=like.dtype, device=device)
            """Scalars of each slot's next steps, in the parameters' type."""

    def work_out(self, slot: int, steps: Tensor, lr_factor: Tensor) -> None:
        """Fill the slot's scalars of updates number `steps` [n] (float64), whose lr carries `lr_factor` [n]."""
        assert self.masked is not None
        hp = {name: value.expand(len(steps)) for name, value in zip(self.names, self.table[slot].cpu(), strict=True)}
        hp["lr"] = hp["lr"] * lr_factor
        found = self.masked.rule.scalars(steps, hp)
        columns = torch.stack([found[name] for name in self.masked.scalar_names], 1)
        self.scalars[slot].copy_(columns)

    def buffer_names(self, parameter: str) -> tuple[str, ...]:
        """Name the state tensors of a parameter, in the order of the slabs."""
        return self.rule.buffers(self.rule.roles[parameter])


class Updates:
    """The optimizers of all slots."""

    def __init__(
        self, layout: Layout, roles: Mapping[str, Role], slots: Slots, params: Tensor, compiled: bool = False
    ) -> None:
        width = len(params)
        self._layout = layout
        self._roles = roles
        self._slots = slots
        self._compiled = compiled
        self._rows = torch.arange(width, device=params.device)
        self._yes = torch.ones(1, dtype=torch.bool, device=params.device)
        self.counts = torch.ones(width, dtype=params.dtype, device=params.device)
        """Micro-batches K of each slot's step."""
        self._groups: list[RuleGroup] = []
        self._group_of: Ints = np.full(width, -1, np.int64)
        self._lr_factor = np.ones((width, LR_CHUNK))
        self._schedules: list[Callable[[NDArray[np.float64]], NDArray[np.float64]] | None] = [None] * width
        self.slabs: list[Tensor] = []
        self.evaluate_for: Callable[[Ints], Evaluate] | None = None
        """Due slots -> their loss at other parameters, for rules that need it."""

    def admit(self, slot: int, spec: TrialSpec, params: Tensor, step: int = 0) -> None:
        """Give a slot its rule, hyperparameters and empty state, at `step` updates. `params` is the buffer [width, P].

        Raises `InvalidInput` for an unknown optimizer or schedule and for illegal values.
        """
        group = self._group(str(spec.params.get("optimizer")), params)
        values = _hyperparameters(group.rule, spec.params)
        schedule = _schedule(spec)
        most = max(len(group.buffer_names(parameter)) for parameter in group.rule.roles)
        while len(self.slabs) < most:
            self.slabs.append(torch.zeros_like(params))
        group.table[slot] = torch.tensor(values, dtype=torch.float64)
        for slab in self.slabs:
            slab[slot].zero_()
        self._group_of[slot] = self._groups.index(group)
        self._schedules[slot] = schedule
        self.counts[slot] = spec.batch_size // self._slots.micro_batch
        self._work_out(slot, step)

    def apply(self, due: Ints, params: Tensor, sums: Tensor, squared_norms: Tensor | None) -> None:
        """Step the due slots with the mean of the micro-batch gradients that `sums` [width, P] adds up, then zero it.

        `squared_norms` [width], float64, receives the squared norm of that mean where it is wanted.
        """
        stale = due[self._slots.step[due] % LR_CHUNK == 0]
        for slot in stale.tolist():
            self._work_out(slot, int(self._slots.step[slot]))
        groups = self._group_of[due]
        for number, group in enumerate(self._groups):
            own = due[groups == number]
            if not len(own):
                continue
            if group.masked is not None:
                self._step_in_place(group, group.masked, own, params, sums)
            else:
                self._step(group, own, params, sums, squared_norms)
                sums.index_fill_(0, torch.from_numpy(own).to(sums.device), 0.0)

    def _step_in_place(self, group: RuleGroup, masked: MaskedUpdate, due: Ints, params: Tensor, sums: Tensor) -> None:
        """Step the due slots: alone, or in a pass that writes all others back as they are."""
        if group.single is not None and len(due) * MASKED_SHARE < len(params):
            for slot in due.tolist():
                row = slice(slot, slot + 1)
                slabs = [slab[row] for slab in self.slabs]
                scalars = group.scalars[row, int(self._slots.step[slot]) % LR_CHUNK]
                group.single.run(self._yes, self.counts[row], scalars, params[row], sums[row], slabs)
            return
        device = params.device
        mask = np.zeros(len(params), bool)
        mask[due] = True
        place = torch.from_numpy(self._slots.step % LR_CHUNK).to(device, non_blocking=True)
        scalars = group.scalars[self._rows, place]
        masked.run(torch.from_numpy(mask).to(device), self.counts, scalars, params, sums, self.slabs)

    def _step(self, group: RuleGroup, due: Ints, params: Tensor, sums: Tensor, squared_norms: Tensor | None) -> None:
        device, step = params.device, self._slots.step[due]
        rows = torch.from_numpy(due).to(device, non_blocking=True)
        count = torch.from_numpy(self._slots.ticks_per_step[due]).to(device, sums.dtype, non_blocking=True)
        factor = torch.from_numpy(self._lr_factor[due, step % LR_CHUNK]).to(device, non_blocking=True)
        table = group.table.index_select(0, rows)
        hp = dict(zip(group.names, table.unbind(1), strict=True))
        hp["lr"] = hp["lr"] * factor
        mean = sums.index_select(0, rows).div_(count[:, None])
        if squared_norms is not None:
            squared_norms.index_copy_(0, rows, squared_norm(mean))
        values = params.index_select(0, rows)
        slabs = [slab.index_select(0, rows) for slab in self.slabs]
        state = State(torch.from_numpy(step.astype(np.float64)).to(device))
        for name, views in _buffers(group, [self._views(group, slab) for slab in slabs]).items():
            state.buffers[name] = views
        evaluate = self.evaluate_for(due) if self.evaluate_for is not None and group.rule.needs_loss else None
        group.rule.update(self._views(group, mean), self._views(group, values), state, hp, evaluate)
        params.index_copy_(0, rows, values)
        for slab, content in zip(self.slabs, slabs, strict=True):
            slab.index_copy_(0, rows, content)

    def _views(self, group: RuleGroup, rows: Tensor) -> Tensors:
        return {_FLAT: rows} if group.rule.elementwise else self._layout.views(rows)

    def _group(self, optimizer: str, params: Tensor) -> RuleGroup:
        for group in self._groups:
            if group.rule.name == optimizer:
                return group
        kind = rule_class(optimizer)
        rule = kind({_FLAT: "vector"} if kind.elementwise else self._roles)
        self._groups.append(RuleGroup(rule, params, self._compiled))
        return self._groups[-1]

    def _work_out(self, slot: int, step: int) -> None:
        """Fill the slot's chunk of schedule factors, the one that holds `step`."""
        schedule = self._schedules[slot]
        start = step // LR_CHUNK * LR_CHUNK
        steps = np.arange(start, start + LR_CHUNK, dtype=np.float64)
        if schedule is not None:
            self._lr_factor[slot] = schedule(steps)
        group = self._groups[self._group_of[slot]]
        if group.masked is not None:
            group.work_out(slot, torch.from_numpy(steps + 1), torch.from_numpy(self._lr_factor[slot]))


def squared_norm(rows: Tensor) -> Tensor:
    """Return |row|^2 of each row of [n, P], float64 [n]: rounded once per element, added up in float64."""
    return (rows * rows).sum(1, dtype=torch.float64)


def _buffers(group: RuleGroup, slabs: list[Tensors]) -> dict[str, Tensors]:
    buffers: dict[str, Tensors] = {}
    for parameter in group.rule.roles:
        for slab, name in zip(slabs, group.buffer_names(parameter), strict=False):
            buffers.setdefault(name, {})[parameter] = slab[parameter]
    return buffers


def _hyperparameters(rule: Rule, params: Mapping[str, Scalar]) -> list[float]:
    given = {h.name: params[h.name] for h in rule.hyperparameters if h.name in params}
    check_hyperparameters(rule.name, given)
    return [float(value) for value in {**defaults(rule.name), **given}.values()]


def _schedule(spec: TrialSpec) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    name = str(spec.params.get("schedule", "constant"))
    known = schedules.catalogue()
    if name not in known:
        raise InvalidInput([Fault("schedule", f"is {name!r}; known are: {', '.join(known)}")])
    chosen = {p.name: float(spec.params[p.name]) for p in known[name].parameters if p.name in spec.params}
    total = float(spec.total_steps)
    schedules.multiplier(name, 0.0, total, **chosen)  # refuses illegal parameters now, not in the middle of a tick

    def factors(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(schedules.multiplier(name, torch.from_numpy(t), total, **chosen))

    return factors
