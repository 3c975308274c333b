"""A rule's step with other learning rates and weight decays for some parameters: class by class, each its own update.

A class (`tuner.study.parameter_groups.Partition`) is to the rule what a parameter group is to a torch optimizer: it has
its own lr and weight decay, and its own state of the whole trial. Gradients are clipped by the norm over all classes.
Factors are hyperparameters [T] beside the rule's own, two per class (`columns`), so that trials may differ in them; no
tensor has the size of the parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tuner.optimizers.members import told_apart
from tuner.optimizers.rule import ElementwiseRule, Rule, Shapes, State, Tensors
from tuner.study.parameter_groups import ParameterGroup, Partition


class Classes:
    """The classes of a rule's parameters. `of` is the class of each parameter as the rule sees it."""

    def __init__(self, of: Mapping[str, int], count: int) -> None:
        self.of = dict(of)
        self.count = count
        self._members = [[name for name, own in of.items() if own == number] for number in range(count)]

    @classmethod
    def of_partition(cls, partition: Partition, stacks: Mapping[str, int]) -> "Classes":
        """Return the classes of a partition for a rule that sees some parameters matrix by matrix (`members.py`)."""
        return cls(told_apart(partition.of, stacks), len(partition))

    def columns(self) -> list[str]:
        """Name the factors of all classes."""
        return columns(self.count)

    def trial_state(self, rule: Rule, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the state of a whole trial, for each class: name -> shape without the trial axis."""
        found: dict[str, tuple[int, ...]] = {}
        for number, members in enumerate(self._members):
            own = rule.trial_state({name: shapes[name] for name in members})
            found |= {_of_class(name, number): shape for name, shape in own.items()}
        return found

    def step(self, rule: Rule, grads: Tensors, params: Tensors, state: State, hp: Mapping[str, Tensor]) -> None:
        """Apply the rule's treatment and update in place, as `Rule.step` does; `hp` holds the factors too."""
        if isinstance(rule, ElementwiseRule) and rule.treatment is None:
            self._step_elements(rule, grads, params, state, hp)
            return
        filled = {name: grad for name, grad in grads.items() if grad.numel()}
        norm = None if rule.treatment is None else rule.treatment.norm(filled, hp)
        for number, members in enumerate(self._members):
            part = _part(state, members, number)
            own_grads, own_params = ({name: tensors[name] for name in members} for tensors in (grads, params))
            if any(param.numel() for param in own_params.values()):
                rule.step(own_grads, own_params, part, _scaled(hp, number), norm=norm)
        state.advance()

    def _step_elements(
        self, rule: ElementwiseRule, grads: Tensors, params: Tensors, state: State, hp: Mapping[str, Tensor]
    ) -> None:
        """Step a rule whose numbers per trial can be had for all classes at once, [classes · T]."""
        state.advance()
        scaled = [rule.own(_scaled(hp, number)) for number in range(self.count)]
        own = {name: torch.cat([each[name] for each in scaled]) for name in scaled[0]}
        found = rule.scalars(state.step.repeat(self.count), own)
        rows = {name: value.view(self.count, -1) for name, value in found.items()}
        for name, param in params.items():
            if param.numel():
                buffers = {buffer: tensors[name] for buffer, tensors in state.buffers.items()}
                scalars = {key: each[self.of[name]] for key, each in rows.items()}
                rule.step_elements(grads[name], param, buffers, scalars)


def columns(count: int) -> list[str]:
    """Name the factors of so many classes."""
    return [name for number in range(count) for name in _columns(number)]


def of_trial(partition: Partition, groups: Sequence[ParameterGroup]) -> list[float]:
    """Return the factors of a trial, in the order of `columns`."""
    return [factor for pair in partition.factors(groups) for factor in pair]


def _columns(number: int) -> tuple[str, str]:
    return f"lr_factor.{number}", f"weight_decay_factor.{number}"


def _of_class(name: str, number: int) -> str:
    return f"{name}.{number}"


def _scaled(hp: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return the hyperparameters of a class."""
    lr_factor, weight_decay_factor = (hp[column] for column in _columns(number))
    own = {**hp, "lr": hp["lr"] * lr_factor}
    if "weight_decay" in hp:
        own["weight_decay"] = hp["weight_decay"] * weight_decay_factor
    return own


def _part(state: State, members: Sequence[str], number: int) -> State:
    """Return the part of a state that belongs to a class, as views but for the count, which each class advances."""
    ending = _of_class("", number)

    def chosen(tensors: Tensors) -> Tensors:
        return {name: tensors[name] for name in members if name in tensors}

    return replace(
        state,
        step=state.step.clone(),
        buffers={name: chosen(tensors) for name, tensors in state.buffers.items()},
        pools={name: chosen(tensors) for name, tensors in state.pools.items()},
        trial={name.removesuffix(ending): one for name, one in state.trial.items() if name.endswith(ending)},
    )
