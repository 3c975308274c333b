"""Domains of hyperparameters and the search space of one family.

A family is one optimizer with its own hyperparameters. Its space has a domain for every number that a trial needs;
fixed numbers have a single value. Conditional parameters (of a schedule that was not chosen) are left out of a
configuration by `FamilySpace.configuration`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.study.hyperparameter import Scalar, Scaling


@dataclass(frozen=True)
class Fixed:
    """One value for every trial."""

    value: Scalar


@dataclass(frozen=True)
class Choices:
    """A few values without order."""

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


def encode(domain: Range, value: float) -> float:
    """Map a value to the axis on which the range is even."""
    if domain.scaling == "log":
        return math.log(value)
    if domain.scaling == "reverse_log":
        return math.log1p(-value)
    return value


def decode(domain: Range, position: float) -> float:
    """Map a position on the even axis back to a value, clipped into the range."""
    if domain.scaling == "log":
        value = math.exp(position)
    elif domain.scaling == "reverse_log":
        value = -math.expm1(position)
    else:
        value = position
    if domain.integer:
        value = round(value)
    return min(max(value, domain.min), domain.max)


def at_quantile(domain: Domain, u: float) -> Scalar:
    """Return the value at quantile u in [0, 1) of the domain's uniform distribution."""
    if isinstance(domain, Fixed):
        return domain.value
    if isinstance(domain, Choices):
        return domain.values[min(int(u * len(domain.values)), len(domain.values) - 1)]
    low, high = encode(domain, domain.min), encode(domain, domain.max)
    value = decode(domain, low + u * (high - low))
    return int(value) if domain.integer else value


@dataclass(frozen=True)
class FamilySpace:
    """All domains that one optimizer's trials need.

    `schedules_of` names the schedules under which a parameter applies (others always apply); `schedule_defaults` holds
    the defaults of each schedule's own parameters, for those that the study does not set.
    """

    optimizer: str
    domains: dict[str, Domain]
    schedules_of: dict[str, frozenset[str]] = field(default_factory=dict)
    schedule_defaults: dict[str, dict[str, Scalar]] = field(default_factory=dict)

    @property
    def swept(self) -> dict[str, Domain]:
        """The domains with more than one value, in a fixed order."""
        return {name: domain for name, domain in self.domains.items() if not isinstance(domain, Fixed)}

    def configuration(self, chosen: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Complete the chosen values with the fixed ones and drop what does not count under the chosen schedule."""
        values: dict[str, Scalar] = {"optimizer": self.optimizer}
        for name, domain in self.domains.items():
            values[name] = domain.value if isinstance(domain, Fixed) else chosen[name]
        schedule = str(values["schedule"])
        counting = {k: v for k, v in values.items() if k not in self.schedules_of or schedule in self.schedules_of[k]}
        return {**self.schedule_defaults.get(schedule, {}), **counting}
