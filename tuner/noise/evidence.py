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
"""Most trials in the temperature line; of more, an evenly spaced subset in order of temperature is used."""


@dataclass(frozen=True)
class Evidence:
    """The tuned trial and the conclusions from its noise.

    noise_scale: over the whole run, so dominated by steps with large gradients; predicted: the critical batch that the
    noise alone predicts; temperature: the line through the family's trials, None if there are too few learning rates or
    the best one is at the edge of those tried; learning_rates: the number tried; edge: whether the best is at the
    edge; left_out: trials whose noise had no upper bound; overtaken: whether a better trial had too little noise data.
    """

    trial: Measurement
    noise_scale: Estimate
    predicted: CriticalBatch
    temperature: TemperatureFit | None
    learning_rates: int
    edge: bool
    left_out: int
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
    fit, left_out = _temperature(ranked, trial, confidence)
    return Evidence(
        trial,
        noise_scale,
        predicted,
        None if edge else fit,
        len({other.lr for other in measurements}),
        edge,
        left_out,
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


def _temperature(
    ranked: Sequence[Measurement], tuned: Measurement, confidence: float
) -> tuple[TemperatureFit | None, int]:
    """Fit the line through all trials with a bounded noise scale; count those without."""
    spread = sorted(ranked, key=lambda m: m.temperature)
    chosen = [spread[i] for i in range(0, len(spread), -(-len(spread) // MOST_TRIALS))]
    measured = [(trial, p) for trial in chosen if (p := _predicted(trial, confidence)) is not None]
    usable = [(trial, p.critical_batch) for trial, p in measured if p.bounded and p.critical_batch > 0]
    left_out = len(measured) - len(usable)
    temperatures = [trial.temperature for trial, _ in usable]
    rates = {trial.lr for trial, _ in usable}
    if min(len(rates), len(set(temperatures))) < FEWEST_TEMPERATURES:
        return None, left_out
    return fit_temperature(temperatures, [scale for _, scale in usable], tuned.temperature, confidence), left_out
