"""The line of noise against learning rate per example."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from noise_simulation import constant_run, isotropic_rows
from scipy import stats

from tuner.errors import InvalidInput
from tuner.noise import TemperatureFit, critical_from_run, fit_temperature
from tuner.noise.evidence import WIDEST

TEMPERATURES = np.geomspace(1e-4, 1e-1, 7)


def fit_exact(temperatures: Sequence[float], scales: Sequence[float], at: float) -> TemperatureFit:
    return fit_temperature(list(temperatures), [constant_run(float(scale)) for scale in scales], at)


def test_equilibrium_has_slope_one() -> None:
    fit = fit_exact(TEMPERATURES, 0.5 / TEMPERATURES, at=2e-3)
    assert (fit.slope, fit.value, fit.low, fit.high) == pytest.approx((1, 250, 250, 250), rel=1e-5)
    assert fit.trials == 7


def test_exact_measurements_against_an_independent_regression() -> None:
    scales = 30 / TEMPERATURES**0.6 * np.exp(0.4 * np.random.default_rng(40).standard_normal(7))
    fit = fit_exact(TEMPERATURES, scales, at=3e-2)
    x, at = np.log(TEMPERATURES), math.log(3e-2)
    oracle, t = stats.linregress(x, np.log(scales)), stats.t.ppf(0.975, 5)
    half = t * oracle.stderr
    assert (fit.slope, fit.slope_low, fit.slope_high) == pytest.approx(
        (-oracle.slope, -oracle.slope - half, -oracle.slope + half), rel=1e-4
    )
    middle = oracle.intercept + oracle.slope * at
    residual = np.log(scales) - oracle.intercept - oracle.slope * x
    spread = math.sqrt((residual**2).sum() / 5 * (1 / 7 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    found = [math.log(value) for value in (fit.low, fit.value, fit.high)]
    assert found == pytest.approx([middle - t * spread, middle, middle + t * spread], rel=1e-3)


def test_the_interval_at_the_tuned_temperature_covers() -> None:
    rng = np.random.default_rng(41)
    truth = 30 / TEMPERATURES**0.6
    fits = [fit_exact(TEMPERATURES, truth * np.exp(0.4 * rng.standard_normal(7)), at=1e-3) for _ in range(150)]
    covered = np.mean([fit.low <= 30 / 1e-3**0.6 <= fit.high for fit in fits])
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize(
    ("noise_scale", "slope", "scatter", "rates"),
    [(300, 1.0, 0.4, 5), (3000, 0.5, 0.8, 9), (3000, 1.0, 1.2, 6), (3000, 1.0, 1.2, 16)],
)
def test_the_interval_covers_for_noisy_trials_at_any_scatter(
    noise_scale: float, slope: float, scatter: float, rates: int
) -> None:
    """Runs of 64 steps at B = 64: where the critical batch is far above B, most have no upper end of their own."""
    rng, repeats, batch = np.random.default_rng(42), 300, 64
    lrs = 0.1 * np.geomspace(1 / 30, 30, rates)
    runs = []
    for lr in lrs:
        scales = noise_scale * (0.1 / lr) ** slope * np.exp(scatter * rng.standard_normal(repeats))
        rows = isotropic_rows(rng, scales, 64, micro_batch=16, count=4, rank=100, per_row=4)
        runs.append([critical_from_run(batch, run) for run in rows])
    fits = [fit_temperature((lrs / batch).tolist(), list(trial), 0.1 / batch) for trial in zip(*runs, strict=True)]
    assert noise_scale < 3000 or np.mean([not run.bounded for run in runs[rates // 2]]) > 0.5
    assert np.mean([fit.low <= noise_scale <= fit.high for fit in fits]) >= 0.92
    given = [fit for fit in fits if fit.high <= WIDEST * fit.low]
    assert np.mean([fit.low <= noise_scale <= fit.high for fit in given]) >= 0.92
    assert len(given) > (0.4 if rates > 6 else 0.2) * repeats, "covering by saying nothing would be cheap"
    assert 0.7 < np.median([fit.value for fit in fits]) / noise_scale < 1.4


def test_trials_known_badly_against_a_literal_sum() -> None:
    """Six trials, three of them known well, one with rare noise: the likelihood summed over a fine grid."""
    criticals, errors = [300, 100, 900, 60, 2000, 30], [0.0, 0.03, 0.05, 0.02, 0.05, 0.0]
    rare = [False, False, False, False, False, True]
    temperatures = np.geomspace(1e-3, 1e-1, 6)
    runs = [constant_run(c, error=e, rare=r) for c, e, r in zip(criticals, errors, rare, strict=True)]
    fit = fit_temperature(temperatures.tolist(), runs, 1e-2)
    x, taus = np.log(temperatures / 1e-2), np.linspace(0.1, 4, 30)
    levels, slopes = np.arange(0, 13, 0.1), np.linspace(-2, 3, 31)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    total = np.zeros((len(taus), len(slopes), len(levels)))
    for k, run in enumerate(runs):
        mu = levels - slopes[:, None] * x[k] - math.log(64)
        if k in (0, 3):
            error = run.error * stats.t.ppf(0.975, 100) / 1.96 / (run.fraction * (1 - run.fraction))
            spread = np.sqrt(error**2 + taus**2)[:, None, None]
            total += stats.norm.logpdf(math.log(1 / run.fraction - 1), mu, spread)
        else:
            error = max(run.error * stats.t.ppf(0.975, 100) / 1.96, 1e-3)
            f = 1 / (1 + np.exp(mu[..., None] + taus[:, None, None, None] * nodes))
            away = (run.fraction - f) / error
            total += np.log((np.exp(-0.5 * np.minimum(away, 0 if run.rare else np.inf) ** 2) * weights).sum(-1) + 1e-14)
    likelihood = (np.exp(total - total.max()) * np.exp(-((taus / 1.25) ** 2) / 2)[:, None, None]).sum((0, 1))
    cut = 2 * math.log1p(stats.t.ppf(0.975, 3) ** 2 / 3)
    inside = levels[np.log(likelihood / likelihood.max()) > -cut]
    assert [math.log(fit.low), math.log(fit.high)] == pytest.approx([inside[0], inside[-1]], abs=0.12)
    assert math.log(fit.value) == pytest.approx(levels[likelihood.argmax()], abs=0.12)


def test_rare_noise_bounds_from_below_only() -> None:
    """Runs that saw few events at two of five temperatures: too little noise there must not pull the line down."""
    scales = 0.5 / TEMPERATURES[:5]
    exact = [constant_run(scale) for scale in scales]
    missed = [*exact[:1], constant_run(scales[1] / 30, rare=True), *exact[2:4], constant_run(scales[4] / 30, rare=True)]
    fit = fit_temperature(TEMPERATURES[:5].tolist(), missed, 1e-3)
    assert fit.low <= 500 <= fit.high and fit.trials == 5
    with pytest.raises(InvalidInput, match="2 different ones, without rare noise, for 5 runs"):
        fit_temperature(TEMPERATURES[:5].tolist(), [*missed[:2], missed[1], missed[3], missed[4]], 1e-3)


def test_three_trials_claim_little() -> None:
    fit = fit_exact([1e-3, 1e-2, 1e-1], [500, 100, 60], at=1e-2)
    assert fit.high / fit.low > 100


def test_a_huge_scatter_reaches_from_nothing_to_infinity() -> None:
    fit = fit_exact([1e-3, 1.0001e-3, 1.0002e-3], [1e-9, 1e9, 1e-9], at=1e3)
    assert fit.high == math.inf and fit.low == 0


def test_trials_without_any_signal_leave_the_upper_end_open() -> None:
    fit = fit_temperature(TEMPERATURES.tolist(), [constant_run(1e9, error=0.02)] * 7, 1e-3)
    assert fit.high == math.inf and 64 < fit.low < 1e9


@pytest.mark.parametrize(
    ("temperatures", "runs", "at"),
    [
        ([1.0, 2.0], 2, 1.0),
        ([1.0, 1.0, 2.0], 3, 1.0),
        ([1.0, 2.0, 3.0], 2, 1.0),
        ([1.0, 2.0, math.inf], 3, 1.0),
        ([1.0, 2.0, 3.0], 3, 0.0),
    ],
)
def test_refusals(temperatures: list[float], runs: int, at: float) -> None:
    with pytest.raises(InvalidInput):
        fit_temperature(temperatures, [constant_run(100.0)] * runs, at)
