"""A line through trials of which some are known too badly for the logarithm of their critical batch.

A trial's true log critical lies about the line mu = m - s x with the standard deviation tau. What was measured is the
fraction F = 1 / (1 + critical / B), whose error is nearly normal also where it reaches below 0 or above 1. So the
likelihood of a trial is the normal density of F given the true critical batch, averaged over the scatter about mu: a
convolution, made once for each tau. Neither m nor s nor tau is estimated first: the likelihood is summed over a grid
of all three, and the grid is narrowed to where it is not negligible. Where it does not vanish towards no noise or
towards nothing but noise, the interval of m has no such end.

Priors: s flat within SLOPES; tau half normal, of width USUAL_SCATTER. A free tau would explain anything: at a scatter
of 3, whatever is measured, half of the trials have no noise and half nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.noise.critical import CriticalBatch
from tuner.noise.strata import Array
from tuner.noise.student import t_quantile

WELL_KNOWN = 8.0
"""Standard errors that F must lie from 0 and from 1 for the logarithm to be nearly normal."""
LEAST_ERROR = 1e-3
"""Of F where it enters as it is: no run tells F = 0.9999 from 1."""
USUAL_SCATTER = 1.25
"""Of log critical between trials; our own judgement."""
SLOPES = (-2.0, 3.0)
"""Far on both sides of what theory says, 0 to 1."""
TAUS = np.geomspace(0.1, 4.0, 12)
NEVER = 14.0
"""So far from log B, log critical means no noise, or nothing but noise."""
STEP = 0.05
"""Of log critical, between the tabulated likelihoods of a trial."""
POINTS = 2048
"""Of a table while it is convolved: far wider than 2 NEVER, so that its ends do not meet."""
LEVEL_POINTS, SLOPE_POINTS = 48, 24
NEGLIGIBLE = 9.0
"""Below the interval's limit, in log likelihood."""


@dataclass(frozen=True)
class Trials:
    """n trials, arrays [n]. x: log(temperature / tuned temperature).

    log_batch: log B; f, error: fraction and its standard error; rare: whether F is only an upper bound; known: whether
    `log` and `log_error`, of the critical batch, say as much.
    """

    x: Array
    log_batch: Array
    f: Array
    error: Array
    rare: NDArray[np.bool_]
    known: NDArray[np.bool_]
    log: Array
    log_error: Array

    @classmethod
    def of(cls, temperatures: Sequence[float], runs: Sequence[CriticalBatch], at: float) -> "Trials":
        """Collect runs and their temperatures."""
        f = np.array([run.fraction for run in runs])
        log_batch = np.log([float(run.batch_size) for run in runs])
        # An error with few degrees of freedom is itself uncertain: widened to what Student's t makes of it.
        error = np.array([run.error * t_quantile(0.975, run.dof) / 1.96 for run in runs])
        rare = np.array([run.rare for run in runs])
        away = np.minimum(f, 1 - f)
        known = (away > WELL_KNOWN * error) & (away > 0) & ~rare
        inside = np.where(known, f, 0.5)
        x = np.log(np.asarray(temperatures, dtype=np.float64) / at)
        log = log_batch + np.log1p(-inside) - np.log(inside)
        return cls(x, log_batch, f, error, rare, known, log, error / inside / (1 - inside))


def fit_scattered(trials: Trials, cut: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return low, most likely, high of m and of s: where the integrated likelihood is within `cut` of the greatest."""
    grid = _Grid(trials)
    widest = grid.levels
    while True:
        found = grid.log_likelihood()
        narrower = grid.narrowed(found.max(0), cut + NEGLIGIBLE)
        if narrower.area > 0.5 * grid.area:
            break
        grid = narrower
    return (
        _interval(grid.levels, _log_sum(found, (0, 1)), cut, (widest[0], widest[-1])),
        _interval(grid.slopes, _log_sum(found, (0, 2)), cut, SLOPES),
    )


class _Grid:
    """Levels m and slopes s at which the likelihood is computed, for each tau."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._tables = _tables(trials)
        ends = np.concatenate([trials.log_batch - NEVER, trials.log_batch + NEVER, trials.log[trials.known]])
        self.levels = np.linspace(ends.min() - 1, ends.max() + 1, LEVEL_POINTS)
        self.slopes = np.linspace(*SLOPES, SLOPE_POINTS)

    @property
    def area(self) -> float:
        return float(np.ptp(self.levels) * np.ptp(self.slopes))

    def narrowed(self, found: Array, limit: float) -> "_Grid":
        """Return the grid of the cells around all points whose likelihood [S, M] is not negligible."""
        other = object.__new__(_Grid)
        other._trials, other._tables = self._trials, self._tables
        counts = found > found.max() - limit
        other.levels, other.slopes = (
            np.linspace(points[max(at[0] - 1, 0)], points[min(at[-1] + 1, len(points) - 1)], len(points))
            for points, at in (
                (self.levels, np.flatnonzero(counts.any(0))),
                (self.slopes, np.flatnonzero(counts.any(1))),
            )
        )
        return other

    def log_likelihood(self) -> Array:
        """Return log of likelihood times prior, [TAUS, S, M]."""
        trials, m, s = self._trials, self.levels, self.slopes[:, None]
        total = (np.log(TAUS) - (TAUS / USUAL_SCATTER) ** 2 / 2)[:, None, None] + np.zeros((1, len(s), len(m)))
        for x, log, error in zip(*(a[trials.known] for a in (trials.x, trials.log, trials.log_error)), strict=True):
            variance = (error**2 + TAUS**2)[:, None, None]
            total -= 0.5 * ((log - m + s * x) ** 2 / variance + np.log(variance))
        some = ~trials.known
        for x, log_batch, table in zip(trials.x[some], trials.log_batch[some], self._tables, strict=True):
            place = np.clip((m - s * x - log_batch + NEVER) / STEP, 0, table.shape[1] - 1.001)
            index = place.astype(np.int64)
            share = place - index
            total += table[:, index] * (1 - share) + table[:, index + 1] * share
        return total


def _tables(trials: Trials) -> list[Array]:
    """Return each badly known trial's log likelihood [TAUS, K] where mu - log B is -NEVER, -NEVER + STEP, ... NEVER."""
    some = ~trials.known
    offsets = (np.arange(POINTS) - POINTS // 2) * STEP
    fractions = 1 / (1 + np.exp(np.clip(offsets, -NEVER, NEVER)))
    error = np.maximum(trials.error[some], LEAST_ERROR)[:, None]
    away = (trials.f[some, None] - fractions) / error
    away = np.where(trials.rare[some, None], np.minimum(away, 0.0), away)
    waves = np.exp(-0.5 * (2 * math.pi * np.fft.rfftfreq(POINTS, STEP) * TAUS[:, None]) ** 2)
    spread = np.fft.irfft(np.fft.rfft(np.exp(-0.5 * away**2))[:, None, :] * waves, n=POINTS)
    kept = np.abs(offsets) <= NEVER + STEP / 2
    return list(np.log(np.maximum(spread[..., kept], 1e-14)))


def _log_sum(values: Array, over: tuple[int, int]) -> Array:
    top = float(values.max())
    return np.asarray(top + np.log(np.exp(values - top).sum(over) + 1e-300))


def _interval(points: Array, found: Array, cut: float, ends: tuple[float, float]) -> tuple[float, float, float]:
    """Return low, most likely, high; an end is infinite where the likelihood there is within `cut` of the greatest."""
    above = found - (found.max() - cut)
    inside = np.flatnonzero(above > 0)
    bounds = []
    for at, step, end in ((inside[0], -1, ends[0]), (inside[-1], 1, ends[1])):
        beyond = at + step
        if not 0 <= beyond < len(points):
            bounds.append(math.copysign(math.inf, step) if points[at] == end else float(points[at]))
            continue
        share = above[at] / (above[at] - above[beyond])
        bounds.append(float(points[at] + share * (points[beyond] - points[at])))
    best = int(found.argmax())
    if 0 < best < len(points) - 1:
        before, here, after = found[best - 1 : best + 2]
        curve = before - 2 * here + after
        middle = float(points[best] + (0.5 * (before - after) / curve if curve < 0 else 0.0) * (points[1] - points[0]))
    else:
        middle = math.copysign(math.inf, best - 0.5) if points[best] in ends else float(points[best])
    return bounds[0], middle, bounds[1]
