"""How the measured noise scale depends on the learning rate, so that it can be quoted at the tuned one.

Near equilibrium the noise scale is inversely proportional to the temperature lr / B (McCandlish et al. 2018,
arXiv 1812.06162, appendix C), so every trial of a search measures a different one. A straight line

    log noise = m - s log(lr / B)

through all trials of a family gives the value at the tuned temperature with the scatter between trials in its interval;
s is 1 at equilibrium and smaller early in training. Ordinary least squares: the scatter between trials (seeds, other
hyperparameters) exceeds the error of each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import InvalidInput
from tuner.noise.student import two_sided

FEWEST_TEMPERATURES = 3


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
    temperatures: Sequence[float], scales: Sequence[float], at: float, confidence: float = 0.95
) -> TemperatureFit:
    """Fit `scales` (examples, > 0) against `temperatures` (lr per example, > 0) and read the line at `at`.

    Raises InvalidInput below three different temperatures or for numbers that are not positive and finite.
    """
    if len(temperatures) != len(scales) or len(set(temperatures)) < FEWEST_TEMPERATURES:
        raise InvalidInput(
            f"temperatures: {len(set(temperatures))} different ones for {len(scales)} noise scales; "
            f"at least {FEWEST_TEMPERATURES} are needed, one per noise scale"
        )
    if not all(math.isfinite(x) and x > 0 for x in (*temperatures, *scales, at)):
        raise InvalidInput("temperatures, scales and at must be finite and > 0")
    x, y = np.log(np.asarray(temperatures, dtype=np.float64)), np.log(np.asarray(scales, dtype=np.float64))
    centred = x - x.mean()
    spread = float((centred**2).sum())
    gradient = float((centred * y).sum()) / spread
    residual = y - y.mean() - gradient * centred
    dof = len(x) - 2
    variance = float((residual**2).sum()) / dof
    t = two_sided(confidence, dof)
    offset = math.log(at) - float(x.mean())
    middle = float(y.mean()) + gradient * offset
    half = t * math.sqrt(variance * (1 / len(x) + offset**2 / spread))
    slope_half = t * math.sqrt(variance / spread)
    low, value, high = (_exp(middle + sign * half) for sign in (-1, 0, 1))
    return TemperatureFit(-gradient, -gradient - slope_half, -gradient + slope_half, at, value, low, high, len(x))


def _exp(x: float) -> float:
    """Exponential that returns infinity instead of failing: with one degree of freedom t is 12.7."""
    return math.exp(x) if x < 700 else math.inf
