"""Domains of hyperparameters and the search space of one family.

A family is one optimizer with its own hyperparameters. Its space has a domain for every number that a trial needs;
fixed numbers have a single value. Conditional parameters (of a schedule that was not chosen) are left out of a
configuration by `FamilySpace.configuration`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tuner.study.hyperparameter import Scalar, Scaling


@dataclass(frozen=True)
class Fixed:
    """One value for every trial."""

    value: Scalar


@dataclass(frozen=True)
class Choices:
    """A few values. Numbers among themselves have an order, which adaptive methods use."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A closed interval. `log` spreads log(x) evenly, `reverse_log` spreads log(1 - x) evenly."""

    min: float
    max: float
    scaling: Scaling = "linear"
    integer: bool = False

    def describe(self) -> str:
        """Describe the range, e.g. `0.001 to 1, log`."""
        return f"{self.min:g} to {self.max:g}, {self.scaling.replace('_', ' ')}"


Domain = Fixed | Choices | Range


def at_quantile(domain: Domain, u: float) -> Scalar:
    """Return the value at quantile u in [0, 1] of the domain's uniform distribution; always one of the domain.

    Every whole number of a linear range is equally likely, as every choice is.
    """
    if isinstance(domain, Fixed):
        return domain.value
    if isinstance(domain, Choices):
        return domain.values[min(int(u * len(domain.values)), len(domain.values) - 1)]
    low, high = _ends(domain)
    value = _decode(domain.scaling, low * (1 - u) + high * u)
    if domain.integer:
        return int(min(max(round(value), math.ceil(domain.min)), math.floor(domain.max)))
    return min(max(value, domain.min), domain.max)


def quantile_of(domain: Range, value: float) -> float:
    """Return the quantile in [0, 1] of a value: the inverse of `at_quantile`, 0 or 1 for a value outside."""
    low, high = _ends(domain)
    inside = _encode(domain.scaling, min(max(value, domain.min), domain.max))
    # Halves, because the width of a range may exceed the largest number.
    width = high / 2 - low / 2
    return min(max((inside / 2 - low / 2) / width, 0.0), 1.0) if width else 0.0


def _ends(domain: Range) -> tuple[float, float]:
    """Return the ends of a range on the axis on which it is even; whole numbers reach half-way to the next."""
    reach = 0.5 if domain.integer else 0.0
    return _encode(domain.scaling, domain.min - reach), _encode(domain.scaling, domain.max + reach)


def _encode(scaling: Scaling, value: float) -> float:
    if scaling == "log":
        return math.log(value)
    return math.log1p(-value) if scaling == "reverse_log" else value


def _decode(scaling: Scaling, position: float) -> float:
    try:
        if scaling == "log":
            return math.exp(position)
        return -math.expm1(position) if scaling == "reverse_log" else position
    except OverflowError:  # rounded past the largest number; the range ends before
        return math.inf if scaling == "log" else -math.inf


@dataclass(frozen=True)
class FamilySpace:
    """All domains that one optimizer's trials need.

    `schedules_of` names the schedules under which a parameter applies (others always apply); `schedule_defaults` holds
    the defaults of each schedule's own parameters, for those that the study does not set. `conditions` of a workload
    parameter are the values that other parameters must have for it to apply. `named`: whether a configuration names its
    optimizer.
    """

    optimizer: str
    domains: dict[str, Domain]
    schedules_of: dict[str, frozenset[str]] = field(default_factory=dict)
    schedule_defaults: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    conditions: dict[str, dict[str, tuple[Scalar, ...]]] = field(default_factory=dict)
    named: bool = True

    @property
    def swept(self) -> dict[str, Domain]:
        """The domains with more than one value, in a fixed order."""
        return {name: domain for name, domain in self.domains.items() if not isinstance(domain, Fixed)}

    def configuration(self, chosen: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Complete the chosen values with the fixed ones and drop what does not count beside the others."""
        values: dict[str, Scalar] = {"optimizer": self.optimizer} if self.named else {}
        for name, domain in self.domains.items():
            values[name] = domain.value if isinstance(domain, Fixed) else chosen[name]
        schedule = str(values.get("schedule"))
        counting = {k: v for k, v in values.items() if k not in self.schedules_of or schedule in self.schedules_of[k]}
        for name in self.conditions:
            if not self.applies(name, values):
                counting.pop(name, None)
        return {**self.schedule_defaults.get(schedule, {}), **counting}

    def applies(self, name: str, values: Mapping[str, Scalar]) -> bool:
        """Whether a parameter's conditions hold, and those of the parameters that they name."""
        return all(
            other in values and is_among(values[other], wanted) and self.applies(other, values)
            for other, wanted in self.conditions.get(name, {}).items()
        )


def is_among(value: Scalar, wanted: Collection[Scalar]) -> bool:
    """Whether a value is one of these; true is not 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)
