"""What a torch optimizer steps at once: parameters of one group, seen as a stack of one trial.

A rule has one step count for all that it is handed. Rules that treat every parameter by itself get parameters of equal
count, as torch counts for each parameter; a parameter that misses a gradient waits. Rules with state of the whole trial
count for the group: a parameter that joins late starts from where it is, and the trial's own state stays with the
group's first parameter, whichever have gradients. A search sees all parameters: no gradient is a gradient of zero.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.catalogue import rule_class
from tuner.optimizers.members import apart, stacks_of, told_apart
from tuner.optimizers.rule import Role, Rule, State, Tensors

Memory = MutableMapping[Tensor, dict[str, Any]]
"""What a torch optimizer remembers of each parameter (its `state`)."""


@dataclass(frozen=True)
class Part:
    """Parameters that are stepped at once by one rule object."""

    members: list[Tensor]
    roles: list[Role]
    done: float
    """Updates so far."""
    first: Tensor
    """The parameter that keeps the trial's own state."""

    @property
    def device(self) -> torch.device:
        """Where all members are."""
        return self.first.device

    def params(self, rule: Rule) -> Tensors:
        """Return views [1, ...] of the members as the rule sees them, by number."""
        return apart(
            {str(index): param.detach().unsqueeze(0) for index, param in enumerate(self.members)}, self._stacks(rule)
        )

    def grads(self, rule: Rule) -> Tensors:
        """Return their gradients [1, ...]; zeros where there is none."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in self.members]
        return apart({str(index): grad.unsqueeze(0) for index, grad in enumerate(found)}, self._stacks(rule))

    def named_roles(self) -> dict[str, Role]:
        """Return their roles, by number."""
        return {str(index): role for index, role in enumerate(self.roles)}

    def roles_for(self, rule: Rule) -> dict[str, Role]:
        """Return the roles of what the rule sees."""
        return told_apart(self.named_roles(), self._stacks(rule))

    def _stacks(self, rule: Rule) -> dict[str, int]:
        """Return the members that the rule sees as several matrices, by number, with how many each is."""
        if not rule.sees_matrices:
            return {}
        shapes = {str(index): param.shape for index, param in enumerate(self.members)}
        return {key: shapes[key][0] for key in stacks_of(self.named_roles(), shapes)}

    def state(self, rule: Rule, memory: Memory) -> State:
        """Return views [1, ...] of what is remembered; what is new starts where the rule says."""
        step = torch.full((1,), self.done, dtype=torch.float64, device=self.device)
        state = State(step, (int(self.done),))
        stacks = self._stacks(rule)
        shapes = {key: param.shape[1:] for key, param in self.params(rule).items()}
        if not self.members:  # a step without any gradient counts for the trial
            state.buffers = {buffer: {} for buffer in rule.buffers("vector")}
        for index, (param, role) in enumerate(zip(self.members, self.roles, strict=True)):
            for buffer in rule.own_buffers(role):
                own = {str(index): kept(memory, param, buffer, rule).unsqueeze(0)}
                state.buffers.setdefault(buffer, {}).update(apart(own, stacks))
        for pool, wanted in rule.pools(shapes).items():
            state.pools[pool] = {key: self._pooled(memory, key, pool, rule, shape) for key, shape in wanted.items()}
        for name, shape in rule.trial_state(shapes).items():
            state.trial[name] = kept(memory, self.first, f"trial_{name}", rule, shape).unsqueeze(0)
        return state

    def _pooled(self, memory: Memory, key: str, pool: str, rule: Rule, shape: Sequence[int]) -> Tensor:
        """Return a view [1, ...] of pooled state; that of a stack's matrix is remembered with the stack."""
        index, bracket, number = key.partition("[")
        return kept(memory, self.members[int(index)], f"{pool}{bracket}{number}", rule, shape).unsqueeze(0)

    def count(self, memory: Memory) -> None:
        """Note one more update."""
        done = torch.tensor(self.done + 1, dtype=torch.float64)
        for param in (self.first, *self.members):
            memory[param]["step"] = done


@cache
def one_trial(name: str) -> bool:
    """Whether a rule sees all parameters of a group as one: it searches, or has state of the whole trial."""
    kind = rule_class(name)
    return kind.needs_loss or bool(kind({}).trial_state({}))


def parts_of(name: str, group: Mapping[str, Any], memory: Memory, wanted: Callable[[Tensor], bool]) -> list[Part]:
    """Divide what is wanted of a group, for the rule called `name`.

    Raises:
        InvalidInput: the rule sees the group as one, and its parameters are on several devices, or for a search of
            several types.
    """
    pairs = list(zip(group["params"], group["roles"], strict=True))
    searched = rule_class(name).needs_loss
    chosen = [(p, role) for p, role in pairs if searched or (p.numel() and wanted(p))]
    if one_trial(name):
        if not any(param.numel() for param, _ in pairs):
            return []
        _check_alike(name, group["params"], searched)
        done = max(_steps(memory, param) for param, _ in pairs)
        return [Part([p for p, _ in chosen], [role for _, role in chosen], done, group["params"][0])]
    found: dict[tuple[float, torch.device, torch.dtype], list[tuple[Tensor, Role]]] = {}
    last, done = None, 0.0  # parameters share the tensor that counts their steps
    for param, role in chosen:
        step = memory[param].get("step") if param in memory else None
        if step is None or step is not last:
            last, done = step, 0.0 if step is None else float(step)
        found.setdefault((done, param.device, param.dtype), []).append((param, role))
    return [
        Part([p for p, _ in members], [role for _, role in members], done, members[0][0])
        for (done, _, _), members in found.items()
    ]


def _check_alike(name: str, params: Sequence[Tensor], searched: bool) -> None:
    seen = {"device": {str(param.device) for param in params}}
    if searched:
        seen["type"] = {str(param.dtype) for param in params}
    faults = [
        Fault("params", f"one group has more than one {what}, {', '.join(sorted(values))}; {name} needs one per group")
        for what, values in seen.items()
        if len(values) > 1
    ]
    if faults:
        raise InvalidInput(faults)


def _steps(memory: Memory, param: Tensor) -> float:
    return float(memory.get(param, {}).get("step", 0.0))


def kept(memory: Memory, param: Tensor, name: str, rule: Rule, shape: Sequence[int] | None = None) -> Tensor:
    """Return what is remembered of a parameter under a name, of its own or another shape; new ones are made.

    Raises:
        InvalidInput: it has another shape.
    """
    remembered = memory[param]
    if name not in remembered:
        if name in rule.starts_at_parameter:
            remembered[name] = param.detach().clone()
        else:
            remembered[name] = torch.zeros_like(param) if shape is None else param.new_zeros(shape)
    found: Tensor = remembered[name]
    wanted = param.shape if shape is None else torch.Size(shape)
    if found.shape != wanted:
        message = f"the shape of {name} is {tuple(found.shape)}; {rule.name} needs {tuple(wanted)}"
        raise InvalidInput([Fault("state", message)])
    if shape is None and param.is_contiguous() and not found.is_contiguous():  # loaded from one that was not
        found = remembered[name] = found.contiguous()
    return found
