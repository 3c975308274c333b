"""How the measured noise depends on the learning rate, so that it can be quoted at the tuned one.

Near equilibrium the noise scale is inversely proportional to the temperature lr / B (McCandlish et al. 2018,
arXiv 1812.06162, appendix C), so every trial of a search measures a different one. A straight line

    log critical = m - s log(temperature / tuned temperature)

through all trials of a family gives the value exp(m) at the tuned temperature; s is 1 at equilibrium and smaller early
in training. Trials scatter about the line (seeds, other hyperparameters) with an unknown standard deviation tau in log
critical, besides the error of each measurement.

The interval of m holds every value whose likelihood, integrated over s and tau, is within a factor of the greatest. The
factor is that with which exact measurements give Student's interval of n - 2 degrees of freedom, so for those this is
ordinary least squares, at any scatter and from three trials on. (Berger, Liseo & Wolpert 1999, "Integrated likelihood
methods for eliminating nuisance parameters".)

Every trial counts, also one whose critical batch has no upper end: leaving those out would leave out the noisy ones.
Where all trials are known well enough for their logarithm to be nearly normal, the line is fitted here; any other
enters by what is nearly normal, its fraction F = 1 / (1 + critical / B) (`tuner.noise.scattered`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import InvalidInput
from tuner.noise.critical import CriticalBatch
from tuner.noise.scattered import Trials, fit_scattered
from tuner.noise.strata import Array
from tuner.noise.student import two_sided

FEWEST_TEMPERATURES = 3
TAUS = 200
"""Values of tau over which the likelihood is integrated, from far below to far above the residuals."""


@dataclass(frozen=True)
class TemperatureFit:
    """The line at one temperature. value, low, high in examples; slope is s with its interval; trials: their number."""

    slope: float
    slope_low: float
    slope_high: float
    temperature: float
    value: float
    low: float
    high: float
    trials: int


def fit_temperature(
    temperatures: Sequence[float], runs: Sequence[CriticalBatch], at: float, confidence: float = 0.95
) -> TemperatureFit:
    """Fit runs against their temperatures (lr per example, > 0) and read the line at `at`.

    Raises InvalidInput below three different temperatures, not counting runs with rare noise, and for temperatures
    that are not positive and finite.
    """
    told = [x for x, run in zip(temperatures, runs, strict=False) if not run.rare]
    if len(temperatures) != len(runs) or len(set(told)) < FEWEST_TEMPERATURES:
        raise InvalidInput(
            f"temperatures: {len(set(told))} different ones, without rare noise, for {len(runs)} runs; at least "
            f"{FEWEST_TEMPERATURES} are needed, one per run"
        )
    if not all(math.isfinite(x) and x > 0 for x in (*temperatures, at)):
        raise InvalidInput("temperatures and at must be finite and > 0")
    trials, dof = Trials.of(temperatures, runs, at), len(told) - 2
    cut = (dof + 1) / 2 * math.log1p(two_sided(confidence, dof) ** 2 / dof)
    fit = _fit_known if trials.known.all() else fit_scattered
    (low, level, high), (slope_low, slope, slope_high) = fit(trials, cut)
    return TemperatureFit(slope, slope_low, slope_high, at, _exp(level), _exp(low), _exp(high), len(runs))


Interval = tuple[float, float, float]
"""Low, most likely, high."""


def _fit_known(trials: Trials, cut: float) -> tuple[Interval, Interval]:
    """Return m and s where every log critical is normal: given tau, the likelihood is that of weighted least squares.

    tau has Jeffreys' prior, which is 1 / tau for exact measurements.
    """
    x, y = trials.x, trials.log
    tilt, flat = np.polyfit(x, y, 1)
    typical = max(float(np.sqrt(np.mean((y - flat - tilt * x) ** 2))), float(trials.log_error.min()), 1e-9)
    taus = typical * np.geomspace(1e-3, 1e4, TAUS)
    w = 1 / (trials.log_error**2 + taus[:, None] ** 2)  # [TAUS, n]
    total, middle = w.sum(1), (w @ x) / w.sum(1)
    centred = x - middle[:, None]
    spread = (w * centred**2).sum(1)
    fall = -(w * centred * y).sum(1) / spread
    level = (w @ y) / total + fall * middle
    squares = (w * (y - level[:, None] + fall[:, None] * x) ** 2).sum(1)
    log_prior = 0.5 * np.log((w * w).sum(1)) + 2 * np.log(taus)
    weight = log_prior + 0.5 * (np.log(w).sum(1) - squares - np.log(total) - np.log(spread))
    return (
        _mixture_interval(level, 1 / total + middle**2 / spread, weight, cut),
        _mixture_interval(fall, 1 / spread, weight, cut),
    )


def _mixture_interval(centre: Array, variance: Array, log_weight: Array, cut: float) -> Interval:
    """Return where the log of a mixture of normals is within `cut` of its greatest value."""

    def log_density(at: float) -> float:
        parts = log_weight - 0.5 * (at - centre) ** 2 / variance - 0.5 * np.log(variance)
        top = float(parts.max())
        return top + math.log(float(np.exp(parts - top).sum()))

    top = float(centre[log_weight.argmax()])
    least = log_density(top) - cut
    scale = math.sqrt(float(variance[log_weight.argmax()]))
    ends = []
    for sign in (-1.0, 1.0):
        inside, outside = 0.0, scale
        while log_density(top + sign * outside) > least:
            inside, outside = outside, 2 * outside
        for _ in range(40):
            half = (inside + outside) / 2
            inside, outside = (half, outside) if log_density(top + sign * half) > least else (inside, half)
        ends.append(top + sign * outside)
    return ends[0], top, ends[1]


def _exp(x: float) -> float:
    """Exponential that returns infinity instead of failing: with one degree of freedom t is 12.7."""
    return math.exp(x) if x < 700 else math.inf
