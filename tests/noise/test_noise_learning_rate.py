"""Learning rates at another batch size."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_simulation import quick

from tuner.noise.learning_rate import ADAPTIVE, EXPONENTS, SGD_LIKE, LearningRate, gain, scaling_of
from tuner.noise.prior import PRIORS
from tuner.study.catalogue import load_catalogue


def rate(scaling: str, low: float, high: float, batch_size: int = 64) -> LearningRate:
    return LearningRate(0.1, batch_size, scaling, *EXPONENTS[scaling], low, high)


@pytest.mark.parametrize(
    ("family", "scaling"),
    [
        ("sgd", "sgd"),
        ("SGD", "sgd"),
        ("adamw", "adaptive"),
        ("signum", "adaptive"),
        ("muon", "other"),
        ("x", "other"),
    ],
)
def test_families(family: str, scaling: str) -> None:
    assert scaling_of(family) == scaling


def test_every_name_is_the_catalogues() -> None:
    assert SGD_LIKE | ADAPTIVE <= set(load_catalogue().optimizers)


def test_sgd_is_linear_below_the_critical_batch_and_flat_above() -> None:
    assert gain(1, 2, 1e6) == pytest.approx(2, rel=1e-5)
    assert gain(1e6, 4e6, 10) == pytest.approx(1, rel=1e-4)
    assert gain(64, 128, math.inf) == 2
    assert gain(100, 200, 100) == pytest.approx(4 / 3)
    assert gain(64, 1, 0) == 1


def test_ranges_of_each_kind_far_below_the_critical_batch() -> None:
    assert rate("sgd", 1e9, math.inf).at(256) == pytest.approx((0.1 * 4**0.8, 0.1 * 4))
    assert rate("adaptive", 1e9, math.inf).at(256) == pytest.approx((0.1 * 4**0.15, 0.1 * 4))
    assert rate("other", 1e9, math.inf).at(256) == pytest.approx((0.1 * 4**0.15, 0.1 * 4))
    assert rate("adaptive", 1e9, math.inf).at(16) == pytest.approx((0.1 / 4, 0.1 / 4**0.15))


@quick
@given(
    scaling=st.sampled_from(sorted(EXPONENTS)),
    ends=st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)).map(sorted),
    batch=st.integers(1, 10_000),
)
def test_the_range_holds_what_it_should(scaling: str, ends: list[float], batch: int) -> None:
    low, high = rate(scaling, *ends).at(batch)
    assert low <= high
    if batch >= 64:
        assert 0.1 * (1 - 1e-12) <= low and high <= 0.1 * batch / 64 * (1 + 1e-9)
    else:
        assert 0.1 * batch / 64 * (1 - 1e-9) <= low and high <= 0.1 * (1 + 1e-12)
    assert rate(scaling, *ends).at(64) == pytest.approx((0.1, 0.1))


def test_priors_are_prediction_intervals_of_the_published_tasks() -> None:
    assert 10 ** PRIORS["classification"].half_width(0.95) == pytest.approx(8.2, rel=0.01)
    assert 10 ** PRIORS["other"].half_width(0.95) == pytest.approx(181, rel=0.01)
    assert PRIORS["classification"].factor == pytest.approx(1 / 3, rel=0.02)
    assert PRIORS["language"].factor == pytest.approx(10 * PRIORS["other"].factor)
    assert PRIORS["other"].half_width(0.8) < PRIORS["other"].half_width(0.95)
