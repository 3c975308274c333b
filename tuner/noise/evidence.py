"""The trial on which the advice is based, and the resulting interval of the critical batch size.

Invariants: the noise scale is quoted only at the tuned learning rate, that is, from the best completed trial of one
optimizer family, never averaged over trials; a trial with fewer than three report rows is not used; the interval
includes both the uncertainty of the noise and that of the factor between noise scale and critical batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuner.noise.critical import CriticalBatch, critical_from_run
from tuner.noise.estimator import Estimate, estimate_from_rows
from tuner.noise.measurement import Measurement
from tuner.noise.prior import Prior
from tuner.noise.temperature import FEWEST_TEMPERATURES, TemperatureFit, fit_temperature

Goal = Literal["minimize", "maximize"]

FEWEST_ROWS = 3
MOST_TRIALS = 256
"""Trials in the temperature line; of more, an evenly spread subset in order of temperature is taken."""
WIDEST = 100.0
"""Largest factor between the ends of a temperature line's interval: beyond, the tuned trial alone says more."""


@dataclass(frozen=True)
class Evidence:
    """The tuned trial and the conclusions from its noise.

    noise_scale: over the whole run, so ruled by where gradients are large; predicted: the critical batch that the noise
    alone predicts; temperature: the line through all trials of the family, None when there are too few learning rates,
    the best one is at the edge of those tried, or the line says too little; learning_rates: how many were tried; edge:
    whether the best is at the edge; overtaken: whether a better trial had too little noise data.
    """

    trial: Measurement
    noise_scale: Estimate
    predicted: CriticalBatch
    temperature: TemperatureFit | None
    learning_rates: int
    edge: bool
    overtaken: bool

    @property
    def base(self) -> tuple[float, float, float]:
        """Critical batch predicted from the noise: low, value, high."""
        if self.temperature is not None:
            return self.temperature.low, self.temperature.value, self.temperature.high
        return self.predicted.low, self.predicted.critical_batch, self.predicted.high

    def critical(self, prior: Prior, confidence: float) -> tuple[float | None, float, float]:
        """Return the critical batch (None without an upper bound on the noise) and its interval, in examples.

        Both uncertainties are independent, so their half-widths in decades add in quadrature.
        """
        low, value, high = self.base
        half = prior.half_width(confidence)
        if not math.isfinite(high):
            return None, low * 10 ** (prior.mean - half), math.inf
        if value <= 0:  # the noise is too small to be measured
            return None, 0.0, math.inf if prior.one_sided else high * 10 ** (prior.mean + half)
        below = math.hypot(math.log10(value / low), half) if low > 0 else math.inf
        above = math.inf if prior.one_sided else math.hypot(math.log10(high / value), half)
        centre = math.log10(value) + prior.mean
        return (None if prior.one_sided else 10**centre), 10 ** (centre - below), 10 ** (centre + above)


def best_family(measurements: Sequence[Measurement], goal: Goal) -> str | None:
    """Return the optimizer of the best completed trial."""
    ranked = _ranked(measurements, goal)
    return ranked[0].family if ranked else None


def gather(measurements: Sequence[Measurement], goal: Goal, confidence: float) -> Evidence | None:
    """Evaluate the trials of one family; None if no completed trial measured enough.

    Trials with batches above a quarter of the training set are not used: such batches hardly differ from each other.
    """
    ranked = _ranked(measurements, goal)
    for trial in ranked:
        predicted = _predicted(trial, confidence)
        if predicted is not None:
            break
    else:
        return None
    count = trial.batch_size // trial.micro_batch
    noise_scale = estimate_from_rows(trial.rows, confidence, trial.dataset_size, count)
    # Trials that diverged count as tried: they show that the best rate is not at the upper edge.
    tried = [other.temperature for other in measurements]
    edge = not min(tried) < trial.temperature < max(tried)
    fit = None if edge else _temperature(ranked, trial, confidence)
    return Evidence(
        trial,
        noise_scale,
        predicted,
        fit,
        len({other.lr for other in measurements}),
        edge,
        trial is not ranked[0],
    )


def _ranked(measurements: Sequence[Measurement], goal: Goal) -> list[Measurement]:
    sign = 1 if goal == "minimize" else -1
    return sorted((m for m in measurements if m.ranked), key=lambda m: sign * float(m.value or 0))


def _predicted(trial: Measurement, confidence: float) -> CriticalBatch | None:
    rows = [row for row in trial.rows if row.n > 0]
    if len(rows) < FEWEST_ROWS or trial.batch_size > trial.largest_batch:
        return None
    return critical_from_run(trial.batch_size, rows, confidence, trial.dataset_size)


def _temperature(ranked: Sequence[Measurement], tuned: Measurement, confidence: float) -> TemperatureFit | None:
    """Fit the line through all trials that measured noise; None below three learning rates or if it says too little."""
    spread = sorted(ranked, key=lambda m: m.temperature)
    chosen = [spread[i] for i in range(0, len(spread), -(-len(spread) // MOST_TRIALS))]
    measured = [(trial, found) for trial in chosen if (found := _predicted(trial, confidence)) is not None]
    told = [trial for trial, found in measured if not found.rare]
    if min(len({trial.lr for trial in told}), len({trial.temperature for trial in told})) < FEWEST_TEMPERATURES:
        return None
    runs = [found for _, found in measured]
    fit = fit_temperature([trial.temperature for trial, _ in measured], runs, tuned.temperature, confidence)
    return fit if math.isfinite(fit.high) and fit.high <= WIDEST * fit.low else None
