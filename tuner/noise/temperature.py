"""How the measured noise depends on the learning rate, so that it can be quoted at the tuned one.

Near equilibrium the noise scale is inversely proportional to the temperature lr / B (McCandlish et al. 2018,
arXiv 1812.06162, appendix C), so every trial of a search measures a different one. A straight line

    log critical = m - s log(temperature / tuned temperature)

through all trials of a family gives the value exp(m) at the tuned temperature; s is 1 at equilibrium and smaller early
in training. Trials scatter about the line (seeds, other hyperparameters) with a standard deviation tau in log critical,
found from the residuals (Paule & Mandel 1982), besides the error of each measurement.

Every trial counts, also one whose critical batch has no upper end: leaving those out would leave out the noisy ones. A
trial whose fraction F = 1 / (1 + critical / B) is known well enters by its logarithm, any other by F itself, whose
error stays normal where that of the logarithm does not; one with rare noise says only that F is no larger. The interval
is the set of m that the trials do not contradict, their variance taken at that m (as in Fieller's), so it may reach 0
and infinity. For exact measurements this is ordinary least squares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import InvalidInput
from tuner.noise.critical import CriticalBatch
from tuner.noise.strata import Array
from tuner.noise.student import t_quantile, two_sided

FEWEST_TEMPERATURES = 3
WELL_KNOWN = 8.0
"""Standard errors that F must lie from 0 and from 1 for the logarithm to be nearly normal."""
USUAL_SCATTER = 0.6
"""Of log critical between trials, where some of them are not known well enough to show it: our own judgement."""
MOST_SCATTER = 1.0
"""Beyond, what is meant for the scatter would explain away that F is not zero."""
LEAST_ERROR = 1e-3
"""Of F where it enters as it is: no run tells F = 0.9999 from 1."""
NEVER = 60.0
"""So far from the best m, in log critical, the line says no noise, or nothing but noise."""


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
    line, dof = _Line(temperatures, runs, at), len(told) - 2
    line.find_scatter()
    t = two_sided(confidence, dof)
    covariance = line.covariance()
    slope_half = t * math.sqrt(covariance[1, 1])
    low, high = line.interval(t, math.sqrt(covariance[0, 0]))
    slope = line.slope
    return TemperatureFit(
        slope, slope - slope_half, slope + slope_half, at, _exp(line.level), _exp(low), _exp(high), len(runs)
    )


class _Line:
    """The sum of squares Q(m, s) of n runs, and where it is least: `level` m and `slope` s."""

    def __init__(self, temperatures: Sequence[float], runs: Sequence[CriticalBatch], at: float) -> None:
        self._x = np.log(np.asarray(temperatures, dtype=np.float64) / at)
        self._batch = np.log([float(run.batch_size) for run in runs])
        self._f = np.array([run.fraction for run in runs])
        # An error with few degrees of freedom is itself uncertain: widened to what Student's t makes of it.
        self._error = np.array([run.error * t_quantile(0.975, run.dof) / 1.96 for run in runs])
        self._rare = np.array([run.rare for run in runs])
        away = np.minimum(self._f, 1 - self._f)
        self._known = (away > WELL_KNOWN * self._error) & (away > 0) & ~self._rare
        inside = np.clip(self._f, 1e-12, 1 - 1e-12)
        self._log = np.where(self._known, self._batch + np.log1p(-inside) - np.log(inside), 0.0)
        self._log_error = np.where(self._known, self._error / (inside * (1 - inside)), 0.0)
        self._error = np.maximum(self._error, LEAST_ERROR)
        self._scatter = 0.0  # tau squared
        self.level, self.slope = self._start()

    def _start(self) -> tuple[float, float]:
        """Least squares through what is well known, or a flat line at the batch size."""
        x, y = self._x[self._known], self._log[self._known]
        if len(set(x.tolist())) < 2:
            return float(y.mean() if len(y) else self._batch.mean()), 0.0
        centred = x - x.mean()
        gradient = float((centred * y).sum() / (centred**2).sum())
        return float(y.mean() - gradient * x.mean()), -gradient

    def _residuals(self, level: Array, slope: Array) -> tuple[Array, Array]:
        """Return normalised residuals and their derivatives by log critical, [..., n], for m and s of shape [...]."""
        log = level[..., None] - slope[..., None] * self._x
        f = 1 / (1 + np.exp(np.clip(log - self._batch, -NEVER, NEVER)))
        h = f * (1 - f)
        spread = np.sqrt(self._error**2 + self._scatter * h * h)
        expected = f + self._scatter / 2 * h * (1 - 2 * f)  # of F, whose logarithm scatters about the line
        by_f = (self._f - expected) / spread
        by_f = np.where(self._rare, np.minimum(by_f, 0.0), by_f)
        slope_f = (
            h * (1 + self._scatter / 2 * (1 - 6 * h)) / spread + by_f * self._scatter * h * h * (1 - 2 * f) / spread**2
        )
        slope_f = np.where(self._rare & (by_f == 0), 0.0, slope_f)
        spread = np.sqrt(self._log_error**2 + self._scatter + 1e-18)
        return (
            np.where(self._known, (self._log - log) / spread, by_f),
            np.where(self._known, -1 / spread, slope_f),
        )

    def _settle(self) -> float:
        """Move to the least Q (Levenberg-Marquardt) and return it."""
        damping = 1e-6
        r, d = self._residuals(np.array(self.level), np.array(self.slope))
        least = float(r @ r)
        for _ in range(50):
            jacobian = np.stack([d, -self._x * d])
            normal, gradient = jacobian @ jacobian.T, jacobian @ r
            normal[[0, 1], [0, 1]] *= 1 + damping
            normal[[0, 1], [0, 1]] += 1e-300
            step = np.linalg.lstsq(normal, -gradient, rcond=None)[0]
            level, slope = self.level + np.clip(step[0], -5, 5), self.slope + np.clip(step[1], -2, 2)
            r_new, d_new = self._residuals(np.array(level), np.array(slope))
            found = float(r_new @ r_new)
            if found < least:
                gained, least = least - found, found
                self.level, self.slope, r, d = float(level), float(slope), r_new, d_new
                damping /= 10
                if gained < 1e-10 * (1 + least):
                    break
            else:
                damping = max(damping, 1e-6) * 10
                if damping > 1e8:
                    break
        return least

    def find_scatter(self) -> None:
        """Settle with the least tau for which Q is no larger than its degrees of freedom, within bounds."""
        exact = bool(self._known.all())
        least, most = (0.0, math.inf) if exact else (USUAL_SCATTER**2, MOST_SCATTER**2)
        self._scatter, dof = least, int((~self._rare).sum()) - 2
        for _ in range(20):
            squares = self._settle()
            if squares <= dof * (1 + 1e-3) or self._scatter >= most:
                return
            r, _ = self._residuals(np.array(self.level), np.array(self.slope))
            h = self._rise(np.array(self.level), np.array(self.slope))
            by_f = h * h / (self._error**2 + self._scatter * h * h)
            falls = r * r * np.where(self._known, 1 / (self._log_error**2 + self._scatter + 1e-18), by_f)
            # Newton for 1 / Q, which is nearly linear in tau squared.
            self._scatter = min(self._scatter + squares * (squares / dof - 1) / float(falls.sum()), most)

    def _rise(self, level: Array, slope: Array) -> Array:
        """Return F (1 - F) on the line, by how much F falls where log critical rises."""
        f = 1 / (1 + np.exp(np.clip(level - slope * self._x - self._batch, -NEVER, NEVER)))
        return np.asarray(f * (1 - f))

    def covariance(self) -> Array:
        """Return the covariance [2, 2] of level and slope."""
        _, d = self._residuals(np.array(self.level), np.array(self.slope))
        jacobian = np.stack([d, -self._x * d])
        return np.asarray(np.linalg.pinv(jacobian @ jacobian.T))

    def interval(self, t: float, error: float) -> tuple[float, float]:
        """Return the ends of the levels whose Q, at their best slope, exceeds the least by at most t^2."""
        limit = self._least() + t * t
        reach = max(min(t * error, NEVER / 4), 1e-9)
        offsets = np.concatenate([[0.0], reach * np.geomspace(0.1, 16, 12), [2 * NEVER]])
        signs = np.array([[-1.0], [1.0]])
        beyond = self._profile((self.level + signs * offsets).ravel()).reshape(2, -1) > limit
        beyond[:, 0] = False
        first = np.maximum(beyond.argmax(1), 1)
        fine = np.linspace(offsets[first - 1], offsets[first], 13, axis=1)
        above = self._profile((self.level + signs * fine).ravel()).reshape(2, -1) - limit
        ends = []
        for side in (0, 1):
            if not beyond[side].any():
                ends.append(float(signs[side, 0]) * math.inf)
                continue
            place = max(int((above[side] > 0).argmax()), 1)
            before, after = above[side, place - 1], above[side, place]
            share = -before / (after - before) if after > before else 0.0
            offset = fine[side, place - 1] + share * (fine[side, 1] - fine[side, 0])
            ends.append(self.level + float(signs[side, 0] * offset))
        return ends[0], ends[1]

    def _least(self) -> float:
        r, _ = self._residuals(np.array(self.level), np.array(self.slope))
        return float(r @ r)

    def _profile(self, levels: Array) -> Array:
        """Return the least Q over all slopes for each level."""
        covariance = np.linalg.pinv(self.covariance())
        tilt = -covariance[0, 1] / covariance[1, 1] if covariance[1, 1] > 0 else 0.0
        starts = [self.slope + tilt * (levels - self.level)]
        if not self._known.all():  # else Q is a parabola
            starts += [np.full(len(levels), self.slope), np.ones(len(levels))]
        slope, levels = np.concatenate(starts), np.tile(levels, len(starts))
        damping = np.full(len(levels), 1e-6)
        r, d = self._residuals(levels, slope)
        least = (r * r).sum(-1)
        for _ in range(25):
            j = -self._x * d
            move = -(j * r).sum(-1) / ((j * j).sum(-1) * (1 + damping) + 1e-300)
            moved = slope + np.clip(move, -2.0, 2.0)
            r_new, d_new = self._residuals(levels, moved)
            found = (r_new * r_new).sum(-1)
            better = found < least
            done = bool(((least - found) <= 1e-5 * (1 + least)).all())
            slope = np.where(better, moved, slope)
            r, d = np.where(better[:, None], r_new, r), np.where(better[:, None], d_new, d)
            least = np.where(better, found, least)
            damping = np.where(better, damping / 10, np.maximum(damping, 1e-6) * 10)
            if done:
                break
        return np.asarray(least.reshape(len(starts), -1).min(0))


def _exp(x: float) -> float:
    """Exponential that returns infinity instead of failing: with one degree of freedom t is 12.7."""
    return math.exp(x) if x < 700 else math.inf
