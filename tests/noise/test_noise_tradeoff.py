"""The fitted trade-off: published sweeps, exact hyperbolas, data that cannot tell."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_simulation import quick
from scipy import optimize, stats

from tuner.errors import InvalidInput
from tuner.noise import fit_tradeoff

BATCHES = [2**i for i in range(6, 15)]

# Steps to a target loss of language models, Zhang et al. 2024 (arXiv 2410.21676), batch sizes in sequences.
LANGUAGE_MODELS = {
    "85M": ([46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600], 1294, 2.83e6, 2191),
    "151M": ([96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300], 1752, 5.68e6, 3240),
    "302M": ([196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879], 2095, 1.14e7, 5433),
}


@pytest.mark.parametrize("model", LANGUAGE_MODELS)
def test_language_model_sweeps(model: str) -> None:
    steps, steps_min, examples_min, critical = LANGUAGE_MODELS[model]
    fit = fit_tradeoff(BATCHES, steps)
    assert fit.critical_batch == pytest.approx(critical, rel=0.01)
    assert fit.steps_min == pytest.approx(steps_min, rel=0.01)
    assert fit.examples_min == pytest.approx(examples_min, rel=0.01)
    assert 0.035 < fit.residual < 0.058
    assert fit.identified
    for end in (fit.low, fit.high):
        assert 1.1 < max(end / critical, critical / end) < 1.2


@pytest.mark.parametrize(
    ("steps", "critical"),
    [
        ([378197, 95943, 25784, 10354, 7840, 7158, 6894, 6824], 886),  # SGD
        ([86994, 21752, 5442, 1364, 345, 107, 87, 84], 16770),  # preconditioned by H^-1/2
    ],
)
def test_noisy_quadratic(steps: list[int], critical: float) -> None:
    """Exact steps of a quadratic with Hessian and noise 1/i, whose knee is sharper than a hyperbola's.

    `critical` is the quotient of the true asymptotes.
    """
    fit = fit_tradeoff([16 * 4**i for i in range(8)], steps)
    assert fit.identified
    assert fit.critical_batch == pytest.approx(critical, rel=0.16)
    assert fit.low < critical < fit.high
    assert 0.05 < fit.residual < 0.2


@quick
@given(
    steps_min=st.floats(1, 1e6),
    critical=st.floats(10, 1e4),
    scale=st.floats(1e-3, 1e3),
)
def test_an_exact_hyperbola_is_found(steps_min: float, critical: float, scale: float) -> None:
    batches = [scale * critical * factor for factor in (0.05 / scale, 0.5 / scale, 2 / scale, 30 / scale)]
    fit = fit_tradeoff(batches, [steps_min * (1 + critical / batch) for batch in batches])
    assert fit.critical_batch == pytest.approx(critical, rel=1e-5)
    assert fit.steps_min == pytest.approx(steps_min, rel=1e-5)
    assert fit.low <= fit.critical_batch <= fit.high
    assert fit.identified
    assert fit.steps_at(critical) == pytest.approx(2 * steps_min, rel=1e-5)
    assert fit.examples_at(critical) == pytest.approx(2 * fit.examples_min, rel=1e-5)


def test_interval_covers() -> None:
    rng = np.random.default_rng(30)
    truth = 1000 * (1 + 800 / np.array(BATCHES))
    fits = [fit_tradeoff(BATCHES, truth * np.exp(0.1 * rng.standard_normal(9))) for _ in range(120)]
    assert np.mean([fit.low <= 800 <= fit.high for fit in fits]) >= 0.92
    assert np.median([fit.high / fit.low for fit in fits]) < 2.5


def test_interval_against_linear_theory() -> None:
    """Residuals are small here, so the profile is a parabola and Student's interval from the Jacobian must agree."""
    wiggle = 0.02 * np.array([1, -1, 1, -1, 1, -1, 1, -1, 1])
    batches = np.array(BATCHES, dtype=float)
    steps = 1000 * (1 + 800 / batches) * np.exp(wiggle)
    fit = fit_tradeoff(batches, steps)

    def model(x: np.ndarray, log_steps_min: float, log_critical: float) -> np.ndarray:
        return log_steps_min + np.log1p(np.exp(log_critical) / x)

    found, covariance = optimize.curve_fit(model, batches, np.log(steps), p0=(7.0, 6.5))
    half = stats.t.ppf(0.975, 7) * covariance[1, 1] ** 0.5
    assert math.log(fit.critical_batch) == pytest.approx(found[1], abs=1e-5)
    assert math.log(fit.high / fit.low) == pytest.approx(2 * half, rel=0.02)


def test_only_one_asymptote_is_not_identified() -> None:
    rng = np.random.default_rng(31)
    batches = np.array([4, 8, 16, 32, 64])
    perfect = fit_tradeoff(batches, 1e5 / batches * np.exp(0.03 * rng.standard_normal(5)))
    assert not perfect.identified and perfect.high == math.inf
    saturated = fit_tradeoff(batches, 500 * np.exp(0.03 * rng.standard_normal(5)))
    assert not saturated.identified and saturated.low == 0
    assert saturated.high < 16


def test_asymptotes_themselves() -> None:
    perfect = fit_tradeoff([1, 2, 4], [400, 200, 100])
    assert (perfect.critical_batch, perfect.steps_min) == (math.inf, 0)
    assert perfect.examples_min == pytest.approx(400)
    flat = fit_tradeoff([1, 2, 4], [100, 100, 100])
    assert (flat.critical_batch, flat.examples_min) == (0, 0)
    assert flat.steps_min == pytest.approx(100)
    assert not perfect.identified and not flat.identified


def test_two_points_fix_a_curve_but_not_its_interval() -> None:
    fit = fit_tradeoff([1, 2], [100, 60])
    assert (fit.steps_min, fit.examples_min, fit.critical_batch) == pytest.approx((20, 80, 4))
    assert (fit.low, fit.high, fit.identified) == (0, math.inf, False)


def test_a_narrow_span_is_not_identified_however_exact() -> None:
    batches = [90, 100, 110]
    assert not fit_tradeoff(batches, [50 * (1 + 100 / b) for b in batches]).identified


@pytest.mark.parametrize(
    ("batches", "steps", "field"),
    [
        ([1, 2], [3, math.nan], r"steps\[1\]"),
        ([0, 2], [3, 2], r"batch_sizes\[0\]"),
        ([1, 2, 4], [3, 2], "steps: has 2 entries"),
        ([2, 2, 2], [3, 2, 1], "at least 2"),
        ([], [], "at least 2"),
    ],
)
def test_refusals(batches: list[float], steps: list[float], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        fit_tradeoff(batches, steps)
    with pytest.raises(InvalidInput, match="confidence"):
        fit_tradeoff([1, 2], [2, 1], confidence=1)
