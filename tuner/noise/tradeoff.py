"""The trade-off between steps and examples, fitted to runs at several batch sizes that reached the same target.

    steps(B) = steps_min + examples_min / B = steps_min (1 + critical_batch / B)

(McCandlish et al. 2018, arXiv 1812.06162, eq. 5), by least squares in log steps, because errors of step counts are
multiplicative. For a given critical batch the best log steps_min is a mean, so one unknown is left; its interval is
where the sum of squares stays below the F-quantile (profile likelihood), and it may reach zero or infinity: data
without a floor cannot bound the critical batch from above.

Each point should be the best over its own learning rates: trying too few at large batches biases the critical batch
down.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import Fault, InvalidInput
from tuner.noise.strata import Array
from tuner.noise.student import two_sided

DECADES_BEYOND = 4
"""How far outside the measured batch sizes a critical batch is searched for."""
GRID = 600
SPAN = 2.0
"""Steps and examples must each vary by this factor, or the data lie on only one asymptote."""


@dataclass(frozen=True)
class Tradeoff:
    """A fitted trade-off. Batches and examples are counted in examples.

    low, high: interval of critical_batch at `confidence`, possibly 0 or infinity. identified: three or more batch
    sizes, steps and examples both spanning a factor of two, and both ends of the interval inside the search range.
    residual: root mean square of the log residuals (0.05 is 5 %).
    """

    steps_min: float
    examples_min: float
    critical_batch: float
    low: float
    high: float
    identified: bool
    residual: float
    confidence: float

    def steps_at(self, batch_size: float) -> float:
        """Return the steps to the target at a batch size, > 0."""
        return self.steps_min + self.examples_min / batch_size

    def examples_at(self, batch_size: float) -> float:
        """Return the examples to the target at a batch size, > 0."""
        return self.steps_min * batch_size + self.examples_min


def fit_tradeoff(batch_sizes: Sequence[float], steps: Sequence[float], confidence: float = 0.95) -> Tradeoff:
    """Fit the trade-off to `steps[i]` steps to the target at `batch_sizes[i]` examples; repeats are allowed.

    Raises InvalidInput for numbers that are not positive and finite, unequal lengths, or fewer than two batch sizes.
    """
    _check(batch_sizes, steps, confidence)
    batch, log_steps = np.asarray(batch_sizes, dtype=np.float64), np.log(np.asarray(steps, dtype=np.float64))
    profile = _profile(batch, log_steps)
    first = math.log(batch.min()) - DECADES_BEYOND * math.log(10)
    last = math.log(batch.max()) + DECADES_BEYOND * math.log(10)
    grid = np.linspace(first, last, GRID)
    values = np.array([profile(x) for x in grid])
    best = int(values.argmin())
    inside = 0 < best < GRID - 1
    log_critical = _minimum(profile, grid[best - 1], grid[best + 1]) if inside else (-math.inf, math.inf)[best > 0]
    least = min(profile(log_critical) if inside else math.inf, float(values[best]))
    low, high = _interval(profile, grid, values, log_critical, least, len(batch), confidence)
    return _result(batch, log_steps, math.exp(log_critical), low, high, math.sqrt(least / len(batch)), confidence)


def _check(batch_sizes: Sequence[float], steps: Sequence[float], confidence: float) -> None:
    faults = [
        Fault(f"{name}[{i}]", f"is {value!r}; allowed is a finite number > 0")
        for name, values in (("batch_sizes", batch_sizes), ("steps", steps))
        for i, value in enumerate(values)
        if not (math.isfinite(value) and value > 0)
    ]
    if len(batch_sizes) != len(steps):
        faults.append(Fault("steps", f"has {len(steps)} entries; allowed is one per batch size ({len(batch_sizes)})"))
    if len(set(batch_sizes)) < 2:
        faults.append(Fault("batch_sizes", f"names {len(set(batch_sizes))} different sizes; at least 2 are needed"))
    if not 0 < confidence < 1:
        faults.append(Fault("confidence", f"is {confidence!r}; allowed is a number in (0, 1)"))
    if faults:
        raise InvalidInput(faults)


def _profile(batch: Array, log_steps: Array) -> Callable[[float], float]:
    """Return the sum of squared log residuals as a function of log(critical batch), with the best steps_min."""

    def profile(log_critical: float) -> float:
        residual = log_steps - np.logaddexp(0.0, log_critical - np.log(batch))
        return float(((residual - residual.mean()) ** 2).sum())

    return profile


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search for the minimum within a bracket."""
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        width = golden * (high - low)
        if function(high - width) < function(low + width):
            high = low + width
        else:
            low = high - width
    return (low + high) / 2


def _interval(
    profile: Callable[[float], float],
    grid: Array,
    values: Array,
    best: float,
    least: float,
    points: int,
    confidence: float,
) -> tuple[float, float]:
    """Return the critical batches beyond which the fit is significantly worse; 0 and infinity if it never is."""
    if points < 3:
        return 0.0, math.inf
    limit = least * (1 + two_sided(confidence, points - 2) ** 2 / (points - 2))
    below = grid[(values > limit) & (grid < best)]
    above = grid[(values > limit) & (grid > best)]
    low = math.exp(_crossing(profile, below[-1], best, limit)) if len(below) else 0.0
    high = math.exp(_crossing(profile, above[0], best, limit)) if len(above) else math.inf
    return low, high


def _crossing(profile: Callable[[float], float], outside: float, inside: float, limit: float) -> float:
    """Bisect for the point where the profile crosses the limit; for infinite `inside`, return the grid point."""
    if not math.isfinite(inside):
        return float(outside)
    for _ in range(60):
        middle = (outside + inside) / 2
        if profile(middle) > limit:
            outside = middle
        else:
            inside = middle
    return inside


def _result(
    batch: Array, log_steps: Array, critical: float, low: float, high: float, residual: float, confidence: float
) -> Tradeoff:
    if critical == math.inf:  # no floor visible: steps are examples_min / B
        steps_min, examples_min = 0.0, math.exp(float((log_steps + np.log(batch)).mean()))
    else:
        steps_min = math.exp(float((log_steps - np.log1p(critical / batch)).mean()))
        examples_min = steps_min * critical
    spans = [float(np.ptp(log)) >= math.log(SPAN) for log in (log_steps, log_steps + np.log(batch))]
    identified = len(set(batch.tolist())) >= 3 and all(spans) and low > 0 and math.isfinite(high)
    return Tradeoff(steps_min, examples_min, critical, low, high, identified, residual, confidence)
