"""The critical batch size predicted from one run's noise, and the steps the run would have taken at another batch size.

If a step at batch B makes 1 / (1 + noise_scale / B) of a full-batch step's progress, then a run of n steps did the work
of steps_min full-batch steps, and the same work at batch B' takes

    steps(B') = steps_min + examples_min / B',     critical batch = examples_min / steps_min

with steps_min = sum of 1 / (1 + noise_t / B) and examples_min = sum of noise_t / (1 + noise_t / B) over the steps
(McCandlish et al. 2018, arXiv 1812.06162, appendix D, inverted). In terms of the estimators,

    1 / (1 + noise_t / B) = Q / (Q + S / B)

and Q + S / B is the squared norm of the batch gradient itself, never near zero. So every window of the run counts, even
one where Q is negative or the noise scale alone has no upper bound; no window is dropped or clamped, which would select
for signal. Windows are as long as it takes to see the noise: one without an event would read as no noise. Where even
the whole run has too few events (`Strata.rare`), no upper end is claimed.

As examples_min = B (n - steps_min), everything follows from the fraction F = steps_min / n. The interval of F, which
the delta method gives from the windows' covariances, maps one to one to the critical batch's.

This is a prediction from the Euclidean noise of the gradient alone. A measured critical batch comes from runs at
several batch sizes (`tuner.noise.tradeoff`); the two differ by a factor that the noise does not show.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.errors import Fault, InvalidInput
from tuner.noise.strata import Array, Strata, effective_dof, stratify
from tuner.noise.student import two_sided
from tuner.noise.sums import NoiseSums

MOST_WINDOWS = 20
STEPS_PER_WINDOW = 8
"""Windows are as fine as this allows. In simulated runs of 64 steps over which |G|^2 fell a hundredfold, 16 followed
the drift too coarsely (48 % coverage where noise was weak) and 4 made Q / (Q + S/B) too noisy (noise of low rank); with
8, intervals covered in at least 92 % of the runs in every case tried."""
EVENTS_PER_WINDOW = 16
"""With the noise in one of a hundred examples (B = 8, 200 steps: 15 events), 20 windows gave a tenth of the truth."""


@dataclass(frozen=True)
class CriticalBatch:
    """Prediction for other batch sizes from a run of `steps` steps at `batch_size` examples.

    steps_min: steps at an infinite batch, not above zero when no progress could be told from noise; examples_min:
    examples at a vanishing one; critical_batch: their quotient in examples, then infinite; low, high: its interval at
    `confidence`; high is infinite when `bounded` is False. error, dof: standard error of the fraction steps_min / steps
    and its degrees of freedom; rare: the noise came in too few events for an upper end.
    """

    batch_size: int
    steps: int
    steps_min: float
    examples_min: float
    critical_batch: float
    low: float
    high: float
    bounded: bool
    confidence: float
    error: float = 0.0
    dof: int = 1
    rare: bool = False

    @property
    def fraction(self) -> float:
        """The share of a full-batch step's progress that a step made: 1 / (1 + critical batch / batch size)."""
        return self.steps_min / self.steps

    def steps_at(self, batch_size: float) -> float:
        """Return the steps that the same progress would have taken at another batch size, in examples, > 0."""
        return self.steps_min + self.examples_min / batch_size


def critical_from_run(
    batch_size: int, rows: Sequence[NoiseSums], confidence: float = 0.95, dataset_size: float | None = None
) -> CriticalBatch | None:
    """Predict the critical batch from the rows of one run at a constant batch size; None below three steps.

    Raises InvalidInput if batch_size is not positive, confidence is not in (0, 1), or dataset_size is below two.
    """
    faults = []
    if not (math.isfinite(batch_size) and batch_size > 0):
        faults.append(Fault("batch_size", f"is {batch_size!r}; allowed is a number > 0"))
    if not 0 < confidence < 1:
        faults.append(Fault("confidence", f"is {confidence!r}; allowed is a number in (0, 1)"))
    if faults:
        raise InvalidInput(faults)
    strata = stratify(rows, dataset_size)
    if strata is None or strata.n.sum() < 3:
        return None
    fraction = _progress(strata, batch_size, strata.events / EVENTS_PER_WINDOW)
    if fraction is None:
        return None
    most = fraction.most(confidence)
    if strata.rare and (fine := _progress(strata, batch_size, math.inf)) is not None:
        most = max(most, fine.most(confidence))  # where noise fell along the run, one window has too much of it
    least = -math.inf if strata.rare else 2 * fraction.value - fraction.most(confidence)
    low, value, high = (_critical(f, batch_size) for f in (most, fraction.value, least))
    if low == math.inf:
        # A run cannot certainly make no progress: here one outlier step dominates its window, which gives no bound.
        low = 0.0
    steps = float(strata.n.sum())
    steps_min = steps * fraction.value
    return CriticalBatch(
        batch_size,
        int(steps),
        steps_min,
        batch_size * (steps - steps_min),
        value,
        low,
        high,
        math.isfinite(high),
        confidence,
        fraction.error,
        fraction.dof,
        strata.rare,
    )


class _Fraction(NamedTuple):
    value: float  # F = steps_min / steps
    error: float  # its standard error
    dof: int

    def most(self, confidence: float) -> float:
        """Return the upper end of its interval."""
        return self.value + two_sided(confidence, self.dof) * self.error


def _progress(strata: Strata, batch_size: float, windows: float) -> _Fraction | None:
    """Return what fraction of full-batch progress the run's steps made; None if a window's gradients all vanished."""
    starts = _starts(strata.n, windows)
    size = np.diff(np.append(starts, len(strata.n)))

    def joined(values: Array) -> Array:
        return np.asarray(np.add.reduceat(values, starts), dtype=np.float64)

    n, s, q, v_sq, v_qq, v_ss = map(joined, (strata.n, strata.s, strata.q, strata.v_sq, strata.v_qq, strata.v_ss))
    big = q + s / batch_size
    if (big <= 0).any():
        return None
    q_big = v_qq + v_sq / batch_size
    big_big = v_qq + 2 * v_sq / batch_size + v_ss / batch_size**2
    # The second-order bias of a ratio of means, estimated and subtracted.
    fraction = q / big + q_big / big**2 - q * big_big / big**3
    by_s = np.repeat(-n * q / batch_size / big**2, size)
    by_q = np.repeat(n * s / batch_size / big**2, size)
    error = by_s**2 * strata.v_ss + 2 * by_s * by_q * strata.v_sq + by_q**2 * strata.v_qq
    steps = float(n.sum())
    return _Fraction(
        float((n * fraction).sum()) / steps,
        math.sqrt(max(float(error.sum()), 0.0)) / steps,
        effective_dof(error, strata.dof),
    )


def _starts(steps: Array, windows: float) -> NDArray[np.int64]:
    """Return where each window starts: neighbouring strata, about equally many steps in each."""
    total = float(steps.sum())
    count = max(1, int(min(MOST_WINDOWS, total / STEPS_PER_WINDOW, windows)))
    index = ((np.cumsum(steps) - steps / 2) / total * count).astype(np.int64)
    return np.flatnonzero(np.diff(index, prepend=-1))


def _critical(fraction: float, batch_size: float) -> float:
    """Solve F = 1 / (1 + critical / B); the noise cannot be negative, so F above one means none."""
    return math.inf if fraction <= 0 else max(batch_size * (1 / fraction - 1), 0.0)
