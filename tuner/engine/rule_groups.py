"""The rule groups of a stack: one for each update rule, as far as trials can be stepped by one program.

What fixes a program are the rule with its choices, and the patterns of parameter groups, if a trial has any; their
factors are numbers of the trial.
"""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from tuner.engine.applied_rule import AppliedRule
from tuner.engine.layout import Layout
from tuner.engine.rule_group import RuleGroup
from tuner.optimizers.by_class import columns, of_trial
from tuner.optimizers.catalogue import check_hyperparameters, defaults, make_rule, program_key, rule_class
from tuner.optimizers.rule import Role
from tuner.study.hyperparameter import Scalar
from tuner.study.parameter_groups import Partition, groups_of, kind_of, refuse


class RuleGroups:
    """All that were needed so far, in the order in which they came up: `each`."""

    def __init__(
        self, layout: Layout, roles: Mapping[str, Role], names: Sequence[str], like: Tensor, compiled: bool
    ) -> None:
        """`names` are those of all parameters of the model, frozen ones too; `like` is the buffer [width, P]."""
        self.each: list[RuleGroup] = []
        self._keys: list[Hashable] = []
        self._partitions: dict[Hashable, Partition] = {}
        self._layout = layout
        self._roles = roles
        self._names = names
        self._like = like
        self._compiled = compiled

    def find(self, params: Mapping[str, Scalar]) -> tuple[RuleGroup, Tensor]:
        """Return the group of a trial with this configuration, and its numbers for the group's table, float64 [H].

        Raises `InvalidInput` for an unknown optimizer, for illegal values, and for parameter groups that the optimizer
        cannot honour or whose pattern matches nothing.
        """
        optimizer = str(params.get("optimizer"))
        values = _hyperparameters(optimizer, params)
        numbers, partition, kind = dict(values), None, None
        if groups := groups_of(params):
            refuse(rule_class(optimizer).info(), groups)
            kind = kind_of(groups)
            if kind not in self._partitions:
                self._partitions[kind] = Partition(groups, self._names, self._roles)
            partition = self._partitions[kind]
            numbers |= dict(zip(columns(len(partition)), of_trial(partition, groups), strict=True))
        key = program_key(optimizer, values), kind
        if key not in self._keys:
            rule = make_rule(optimizer, self._roles, values)
            applied = AppliedRule(rule, self._layout, self._roles, partition)
            self.each.append(RuleGroup(applied, self._like, self._compiled))
            self._keys.append(key)
        group = self.each[self._keys.index(key)]
        return group, torch.tensor([float(numbers[name]) for name in group.names], dtype=torch.float64)


def _hyperparameters(optimizer: str, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    given = {name: params[name] for name in defaults(optimizer) if name in params}
    check_hyperparameters(optimizer, given)
    return {**defaults(optimizer), **given}
