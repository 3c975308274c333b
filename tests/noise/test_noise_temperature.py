"""The line of noise scale against learning rate per example."""

import math

import numpy as np
import pytest
from scipy import stats

from tuner.errors import InvalidInput
from tuner.noise import fit_temperature

TEMPERATURES = np.geomspace(1e-4, 1e-1, 7)


def test_equilibrium_has_slope_one() -> None:
    fit = fit_temperature(TEMPERATURES, 0.5 / TEMPERATURES, at=2e-3)
    assert (fit.slope, fit.value, fit.low, fit.high) == pytest.approx((1, 250, 250, 250))
    assert fit.trials == 7


def test_against_an_independent_regression() -> None:
    scales = 30 / TEMPERATURES**0.6 * np.exp(0.4 * np.random.default_rng(40).standard_normal(7))
    fit = fit_temperature(TEMPERATURES, scales, at=3e-2)
    oracle = stats.linregress(np.log(TEMPERATURES), np.log(scales))
    half = stats.t.ppf(0.975, 5) * oracle.stderr
    assert (fit.slope, fit.slope_low, fit.slope_high) == pytest.approx(
        (-oracle.slope, -oracle.slope - half, -oracle.slope + half)
    )
    assert math.log(fit.value) == pytest.approx(oracle.intercept + oracle.slope * math.log(3e-2))


def test_the_interval_at_the_tuned_temperature_covers() -> None:
    rng = np.random.default_rng(41)
    truth = 30 / TEMPERATURES**0.6
    fits = [fit_temperature(TEMPERATURES, truth * np.exp(0.4 * rng.standard_normal(7)), at=1e-3) for _ in range(400)]
    covered = np.mean([fit.low <= 30 / 1e-3**0.6 <= fit.high for fit in fits])
    assert 0.92 <= covered <= 0.98


def test_three_trials_claim_little() -> None:
    fit = fit_temperature([1e-3, 1e-2, 1e-1], [500, 100, 60], at=1e-2)
    assert fit.high / fit.low > 100


def test_a_huge_scatter_overflows_to_infinity() -> None:
    fit = fit_temperature([1e-3, 1.0001e-3, 1.0002e-3], [1e-9, 1e9, 1e-9], at=1e3)
    assert fit.high == math.inf and fit.low == 0


@pytest.mark.parametrize(
    ("temperatures", "scales", "at"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0),
        ([1.0, 1.0, 2.0], [1.0, 1.0, 2.0], 1.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0], 1.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0, math.inf], 1.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0),
    ],
)
def test_refusals(temperatures: list[float], scales: list[float], at: float) -> None:
    with pytest.raises(InvalidInput):
        fit_temperature(temperatures, scales, at)
