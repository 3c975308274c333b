"""Parameter groups: parameters of a model with factors of their own, and how a trial's configuration names them.

A group is in a configuration as `group.<name>.match`, a pattern of parameter names, and its factors as
`group.<name>.lr_factor` and so on: hyperparameters like others. Factors of several groups that match a parameter
multiply. Parameters that match the same groups, and lie equally deep where that counts, form a *class*: their factors
are equal in every trial, so an optimizer handles each class once. Standard library only.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tuner.errors import Fault, InvalidInput
from tuner.study.hyperparameter import Hyperparameter, OptimizerInfo, Scalar
from tuner.study.layer_depth import layer_depths

GROUP = "group."
"""Before the names of groups in a configuration."""
EVERYTHING = "*"
LARGEST = 1e6
NAMED = 6
"""Most parameters that an error names."""

LR_FACTOR = Hyperparameter(
    "lr_factor", 1.0, "multiplies the learning rate of the group", low=0.0, high=LARGEST, low_open=True
)
WEIGHT_DECAY_FACTOR = Hyperparameter(
    "weight_decay_factor", 1.0, "multiplies the weight decay of the group; 0: none", low=0.0, high=LARGEST
)
DEPTH_DECAY = Hyperparameter(
    "depth_decay",
    1.0,
    "multiplies the learning rate of a layer once for each layer above it",
    low=0.0,
    high=1.0,
    low_open=True,
)
FACTORS = {factor.name: factor for factor in (LR_FACTOR, WEIGHT_DECAY_FACTOR, DEPTH_DECAY)}


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose names match a pattern (`fnmatch`, e.g. `head.*`), with the factors of one trial."""

    name: str
    match: str = EVERYTHING
    lr_factor: float = 1.0
    weight_decay_factor: float = 1.0
    depth_decay: float | None = None
    """None: how deep a parameter lies does not count."""

    def matches(self, parameter: str) -> bool:
        """Whether a parameter belongs to it."""
        return fnmatchcase(parameter, self.match)


def default_name(match: str) -> str:
    """Return the name of a group that was given none: its pattern's letters and digits, e.g. `blocks_attn`."""
    return re.sub(r"[^A-Za-z0-9]+", "_", match).strip("_")[:64] or "all"


def groups_of(params: Mapping[str, Scalar]) -> tuple[ParameterGroup, ...]:
    """Return the groups of a trial's configuration, by name, so that no product depends on the order of its keys.

    Raises:
        InvalidInput: one fault per illegal factor, unknown key, or group without a pattern.
    """
    found: dict[str, dict[str, Scalar]] = {}
    for key, value in params.items():
        if key.startswith(GROUP):
            name, _, what = key.removeprefix(GROUP).rpartition(".")
            found.setdefault(name, {})[what] = value
    return read_groups({GROUP + name: {"name": name, **given} for name, given in sorted(found.items())})


def configuration_of(groups: Iterable[ParameterGroup]) -> dict[str, Scalar]:
    """Return what `groups_of` reads."""
    params: dict[str, Scalar] = {}
    for group in groups:
        params[f"{GROUP}{group.name}.match"] = group.match
        given = {name: getattr(group, name) for name in FACTORS}
        params |= {f"{GROUP}{group.name}.{name}": value for name, value in given.items() if value is not None}
    return params


def read_groups(given: Mapping[str, Mapping[str, object]]) -> tuple[ParameterGroup, ...]:
    """Return groups from their fields, `match` and factors; the keys say where each one was given, for the errors.

    Raises:
        InvalidInput: one fault per illegal factor, unknown field, or pattern that is no text.
    """
    faults: list[Fault] = []
    groups = []
    for path, fields in given.items():
        match = fields.get("match", EVERYTHING)
        if not isinstance(match, str) or not match:
            faults.append(Fault(f"{path}.match", f"is {match!r}; allowed is a pattern of parameter names"))
        for name, value in fields.items():
            if name in FACTORS:
                faults += [Fault(f"{path}.{name}", told) for told in [FACTORS[name].fault(value)] if told]
            elif name not in ("name", "match"):
                faults.append(Fault(f"{path}.{name}", f"is unknown; a group has name, match, {', '.join(FACTORS)}"))
        if not faults:
            factors = {name: float(fields[name]) for name in FACTORS if name in fields}  # type: ignore[arg-type]
            groups.append(ParameterGroup(str(fields.get("name") or default_name(str(match))), str(match), **factors))
    if faults:
        raise InvalidInput(faults)
    return tuple(groups)


def refusal(info: OptimizerInfo, factor: str) -> str | None:
    """Return why an optimizer takes no factor of this name, or None if it does."""
    if not info.parameter_groups:
        return f"{info.name} moves all parameters as one, so it takes no factors of some of them"
    if factor == WEIGHT_DECAY_FACTOR.name and info.hyperparameter("weight_decay") is None:
        return f"{info.name} has no weight_decay, which this multiplies"
    return None


def refuse(info: OptimizerInfo, groups: Iterable[ParameterGroup]) -> None:
    """Check that an optimizer takes these groups.

    Raises:
        InvalidInput: one fault per factor that it cannot honour.
    """
    faults = []
    for group in groups:
        given = {"lr_factor": group.lr_factor != 1, "weight_decay_factor": group.weight_decay_factor != 1}
        given["depth_decay"] = group.depth_decay is not None
        wanted = [name for name, is_given in given.items() if is_given] or ["lr_factor"]
        told = [(name, refusal(info, name)) for name in wanted]
        faults += [Fault(f"{GROUP}{group.name}.{name}", why) for name, why in told if why]
    if faults:
        raise InvalidInput(faults)


class Partition:
    """The trained parameters of a model in classes: all that match the same groups, and lie equally deep if it counts.

    It depends on patterns and names only; the factors of each class are a trial's (`factors`).
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], names: Sequence[str], trained: Collection[str] | None = None
    ) -> None:
        """Divide parameters `trained` (None: all) of a model whose parameters are `names`, in the model's order.

        Raises:
            InvalidInput: one fault per group that matches none of them.
        """
        chosen = [name for name in names if trained is None or name in trained]
        depths = layer_depths(list(names)) if any(group.depth_decay is not None for group in groups) else {}
        unmatched = [group for group in groups if not any(map(group.matches, chosen))]
        if unmatched:
            raise InvalidInput([Fault(f"{GROUP}{group.name}.match", no_match(group, chosen)) for group in unmatched])
        self._members: list[tuple[tuple[int, ...], int]] = []
        self.of: dict[str, int] = {}
        """The class of each parameter, by name."""
        for name in chosen:
            own = tuple(i for i, group in enumerate(groups) if group.matches(name))
            deep = any(groups[i].depth_decay is not None for i in own)
            member = own, depths[name] if deep else 0
            if member not in self._members:
                self._members.append(member)
            self.of[name] = self._members.index(member)

    def __len__(self) -> int:
        """Return how many classes there are."""
        return len(self._members)

    def factors(self, groups: Sequence[ParameterGroup]) -> list[tuple[float, float]]:
        """Return, for each class, what multiplies lr and weight decay in a trial with these groups."""
        found = []
        for own, depth in self._members:
            decays = [groups[i].depth_decay for i in own]
            lr = math.prod(groups[i].lr_factor for i in own)
            lr *= math.prod(decay**depth for decay in decays if decay is not None)
            found.append((lr, math.prod(groups[i].weight_decay_factor for i in own)))
        return found


def kind_of(groups: Iterable[ParameterGroup]) -> tuple[tuple[str, bool], ...]:
    """Return what groups fix of a program: trials that agree in it have one `Partition`."""
    return tuple((group.match, group.depth_decay is not None) for group in groups)


def no_match(group: ParameterGroup, names: Sequence[str]) -> str:
    """Say that no parameter matches, and what they are called."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{group.match!r} matches no parameter that is trained; those are {', '.join(names[:NAMED])}{more}"
