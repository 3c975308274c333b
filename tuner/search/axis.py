"""A hyperparameter as optuna's adaptive samplers see it.

- A range is its quantiles in [0, 1]: scaling and width are handled in one place, `tuner.study.space`, and no range is
  too wide or too narrow for the sampler's arithmetic.
- Numbers to choose from, such as batch sizes, are their ranks: what is learned of one tells of its neighbours.
- Other choices have no order. Whole numbers are themselves.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.study.hyperparameter import Scalar
from tuner.study.space import Choices, Domain, Range, at_quantile, quantile_of


@dataclass(frozen=True)
class Axis:
    """The axis of one domain with more than one value."""

    domain: Domain

    @cached_property
    def ranked(self) -> list[Scalar] | None:
        """The choices in order, if they have one."""
        if not isinstance(self.domain, Choices) or not all(map(_is_number, self.domain.values)):
            return None
        return sorted(set(self.domain.values))

    def distribution(self) -> BaseDistribution:
        """Return optuna's distribution."""
        if self.ranked is not None:
            return IntDistribution(0, len(self.ranked) - 1)
        if isinstance(self.domain, Choices):
            return CategoricalDistribution(list(self.domain.values))
        assert isinstance(self.domain, Range)
        if self.domain.integer:
            return IntDistribution(int(self.domain.min), int(self.domain.max), log=self.domain.scaling == "log")
        return FloatDistribution(0.0, 1.0)

    def told(self, value: Scalar) -> Scalar | None:
        """Return a value as optuna is told of it, or None if the domain does not hold it."""
        if self.ranked is not None:
            return self.ranked.index(value) if value in self.ranked else None
        if isinstance(self.domain, Choices):
            return value if value in self.domain.values else None
        assert isinstance(self.domain, Range)
        if not _is_number(value) or not self.domain.min <= float(value) <= self.domain.max:
            return None
        return int(value) if self.domain.integer else quantile_of(self.domain, float(value))

    def proposed(self, value: Any) -> Scalar:
        """Return optuna's proposal as a value of the domain."""
        if self.ranked is not None:
            return self.ranked[int(value)]
        if isinstance(self.domain, Range) and not self.domain.integer:
            return at_quantile(self.domain, float(value))
        found: Scalar = value
        return found


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
