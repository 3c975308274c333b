"""The gradient noise scale tr Sigma / |G|^2 with its interval, from sums over optimizer steps.

The noise scale is the batch size, in examples, at which the noise in a batch gradient is as large as the gradient
itself (McCandlish et al. 2018, arXiv 1812.06162, "simple" noise scale). It is not the critical batch size, which is a
property of training runs (`tuner.noise.critical`).

Invariants: a ratio of sums, never a mean of ratios; nothing is clamped; an interval without an upper end is marked as
such; fewer than three steps give no number at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.errors import Fault, InvalidInput
from tuner.noise.fieller import fieller
from tuner.noise.strata import Strata, check_dataset_size, effective_dof, pool, stratify
from tuner.noise.student import two_sided
from tuner.noise.sums import NoiseSums, total

FEWEST_STEPS = 3
ROWS_KEPT = 256
HEAVY_BLOCKS, HEAVY_SHARE = 20, 0.3
WANTED_PRECISION = math.log(1.2)
"""Half-width of an interval of log(noise scale) that counts as precise: plus or minus 20 %."""


@dataclass(frozen=True)
class Estimate:
    """A noise scale in examples, with the data behind it.

    value: ratio of sums; infinite when the mean of Q is not positive, NaN with fewer than three steps. low, high: the
    Fieller interval; without an upper end (`bounded` False) high is infinite, low is a one-sided bound, and value is
    not to be quoted alone. trace, grad_sq: mean tr Sigma and |G|^2 per step (grad_sq may be negative). steps: how many
    were measured. effective_rank: (tr Sigma)^2 / tr(Sigma^2), NaN when the number of micro-batches is unknown; a trend
    and heavy tails make it too small. steps_for_20_percent: steps at which the interval would be about +-20 %.
    heavy_tailed: the noise comes in few events (`Strata.rare`), or one of 20 blocks holds more than 30 % of the trace,
    so the variance estimate itself is in doubt.
    """

    value: float
    low: float
    high: float
    bounded: bool
    trace: float
    grad_sq: float
    steps: int
    effective_rank: float
    confidence: float = 0.95
    steps_for_20_percent: float = math.nan
    heavy_tailed: bool = False

    @property
    def enough(self) -> bool:
        """Whether there was enough data for an estimate."""
        return not math.isnan(self.value)

    def describe(self) -> str:
        """Describe the noise scale in words, never giving a number without its interval."""
        level = f"{self.confidence:.0%}"
        if not self.enough:
            return f"not enough data ({self.steps} steps measured)"
        if not self.bounded:
            return f"at least {two_digits(self.low)} examples ({level}; no upper bound)"
        if self.high <= 1:
            return f"below one example ({level})"
        return f"{two_digits(self.value)} examples ({level} interval {two_digits(self.low)} to {two_digits(self.high)})"


class NoiseScale:
    """Collects steps and estimates. Memory is bounded: beyond 512 rows, neighbouring rows are merged.

    `confidence` in (0, 1); `dataset_size`: number of training examples if batches are drawn without replacement.
    """

    def __init__(self, confidence: float = 0.95, dataset_size: float | None = None) -> None:
        _check_confidence(confidence)
        check_dataset_size(dataset_size)
        self.confidence = confidence
        self.dataset_size = dataset_size
        self._rows: list[NoiseSums] = []
        self._steps_per_row = 1
        self._steps = 0
        self._inverse_dof = 0.0

    def add(self, small: float, big: float, micro_batch: int, count: int) -> None:
        """Add one optimizer step; the arguments are those of `NoiseSums.of_step`. Raises InvalidInput."""
        step = NoiseSums.of_step(small, big, micro_batch, count)
        if self._rows and self._rows[-1].n < self._steps_per_row:
            self._rows[-1] += step
        else:
            self._rows.append(step)
        self._steps += 1
        self._inverse_dof += 1 / (count - 1)
        if len(self._rows) >= 2 * ROWS_KEPT and self._rows[-1].n == self._steps_per_row:
            self._rows = [a + b for a, b in zip(self._rows[::2], self._rows[1::2], strict=True)]
            self._steps_per_row *= 2

    @property
    def rows(self) -> tuple[NoiseSums, ...]:
        """The collected rows, in order."""
        return tuple(self._rows)

    def estimate(self) -> Estimate:
        """Estimate from everything added so far."""
        count = 1 + self._steps / self._inverse_dof if self._steps else None
        return estimate_from_rows(self._rows, self.confidence, self.dataset_size, count)


def estimate_from_rows(
    rows: Sequence[NoiseSums],
    confidence: float = 0.95,
    dataset_size: float | None = None,
    count: float | None = None,
) -> Estimate:
    """Estimate the noise scale from rows in the order of training, each the sums over some steps.

    `count` is K, the micro-batches per step, and only needed for the effective rank (if K varied: one plus the harmonic
    mean of K - 1). Raises InvalidInput if confidence, dataset_size or count is out of range.
    """
    _check_confidence(confidence)
    if count is not None and not count > 1:
        raise InvalidInput([Fault("count", f"is {count!r}; allowed is a number > 1, or None")])
    strata = stratify(rows, dataset_size)
    steps = sum(row.n for row in rows)
    if strata is None or steps < FEWEST_STEPS:
        return Estimate(math.nan, 0.0, math.inf, False, math.nan, math.nan, steps, math.nan, confidence)
    return _estimate(strata, confidence, count, strata.rare or _heavy_tailed(rows))


def two_digits(value: float) -> str:
    """Format a positive number with two significant digits: 0.12, 5.1, 340, 12,000."""
    if not math.isfinite(value):
        return "infinity"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _estimate(strata: Strata, confidence: float, count: float | None, heavy_tailed: bool) -> Estimate:
    steps = float(strata.n.sum())
    s, q = float(strata.s.sum()) / steps, float(strata.q.sum()) / steps
    v_ss, v_sq, v_qq = (float(v.sum()) / steps**2 for v in (strata.v_ss, strata.v_sq, strata.v_qq))
    if s == 0 and q == 0:
        value = math.nan  # every gradient was zero: there is neither signal nor noise
    else:
        value = s / q if q > 0 else math.inf
    ratio = value if math.isfinite(value) else 0.0
    error = strata.v_ss - 2 * ratio * strata.v_sq + ratio**2 * strata.v_qq if q > 0 else strata.v_qq
    t = two_sided(confidence, effective_dof(error, strata.dof))
    low, high, bounded = fieller(s, q, v_ss, v_sq, v_qq, t)
    rank = 2 * s / v_ss * s / (count - 1) / steps if count is not None and v_ss > 0 else math.nan
    # Divided one after the other: products of the smallest numbers are zero.
    relative = v_ss / s / s - 2 * v_sq / s / q + v_qq / q / q if s > 0 and q > 0 else math.inf
    return Estimate(
        value,
        low,
        high,
        bounded,
        s * strata.scale,
        q * strata.scale,
        int(steps),
        rank,
        confidence,
        math.ceil(steps * t * t * relative / WANTED_PRECISION**2) if math.isfinite(relative) else math.inf,
        heavy_tailed,
    )


def _heavy_tailed(rows: Sequence[NoiseSums]) -> bool:
    blocks = pool(rows, HEAVY_BLOCKS)
    return len(blocks) >= HEAVY_BLOCKS // 2 and bool(max(b.s for b in blocks) > HEAVY_SHARE * total(blocks).s)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidInput([Fault("confidence", f"is {confidence!r}; allowed is a number in (0, 1)")])
