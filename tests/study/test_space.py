"""Domains: quantiles land where the scaling says, and stay inside."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.study.hyperparameter import Scaling
from tuner.study.space import Choices, Fixed, Range, at_quantile


def test_quantiles_follow_the_scaling() -> None:
    assert at_quantile(Range(1e-4, 1.0, "log"), 0.5) == pytest.approx(1e-2)
    assert at_quantile(Range(0.9, 0.999, "reverse_log"), 0.5) == pytest.approx(0.99)
    assert at_quantile(Range(2.0, 4.0), 0.5) == 3.0
    assert at_quantile(Range(1, 5, integer=True), 0.999) == 5
    assert [at_quantile(Choices(("a", "b")), u) for u in (0.0, 0.49, 0.5, 1 - 1e-12)] == ["a", "a", "b", "b"]
    assert at_quantile(Fixed(7), 0.3) == 7


@given(
    low=st.floats(1e-9, 0.5),
    width=st.floats(1e-6, 0.49),
    u=st.floats(0, 1, exclude_max=True),
    scaling=st.sampled_from(["linear", "log", "reverse_log"]),
)
def test_every_quantile_lies_in_the_range(low: float, width: float, u: float, scaling: Scaling) -> None:
    domain = Range(low, low + width, scaling)
    value = at_quantile(domain, u)
    assert isinstance(value, float)
    assert domain.min <= value <= domain.max
    assert math.isfinite(value)
