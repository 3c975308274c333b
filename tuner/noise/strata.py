"""The uncertainty of sums of S and Q, without mistaking the trend of training for noise.

The estimands are the sums of tr Sigma and of |G|^2 along the actual run. Given the parameters at a step, the errors
of S and Q there do not depend on earlier steps, so the variance of a sum is the sum of the steps' variances; the trend
of tr Sigma and |G|^2, which can span decades, is not an error. Rows are therefore compared only with their neighbours
(von Neumann, Kent, Bellinson & Hart 1941, "The mean square successive difference"): a stratum is a pair of neighbouring
rows and its covariance comes from their difference. Any trend left inside a stratum makes intervals wider, never
narrower. Correlation inside a row, e.g. from an unusual data order, is accounted for.

With fewer than `ENOUGH_ROWS` rows there are too few pairs, and a row's own second moments are used, which assume that
the steps inside a row are uncorrelated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.errors import Fault, InvalidInput
from tuner.noise.sums import NoiseSums

ENOUGH_ROWS = 16
"""From this number on there are at least eight pairs; a variance with eight degrees of freedom is usable."""

RARE = 4.0
"""Steps per event from which noise counts as rare. Gaussian noise of one dimension, in two micro-batches, has two."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Strata:
    """P neighbourhoods of a run in order. Arrays are [P]; squared-gradient quantities are divided by `scale`.

    n, s, q: steps and sums of S and Q, Q corrected for the finite training set; v_ss, v_sq, v_qq: estimated covariance
    of those sums; dof: degrees of freedom of that estimate; blocks: the number of rows used.
    """

    n: Array
    s: Array
    q: Array
    v_ss: Array
    v_sq: Array
    v_qq: Array
    dof: Array
    scale: float
    blocks: int

    @property
    def events(self) -> float:
        """How many independent events of equal size would make the sum of S vary as much as it does.

        Few of them show few of the sizes that events may have: then S may miss most of the noise, and its variance too.
        """
        variance = float(self.v_ss.sum())
        return float(self.s.sum()) ** 2 / variance if variance > 0 else np.inf

    @property
    def rare(self) -> bool:
        """Whether the noise comes in so few events that an upper end of it cannot be told."""
        return bool(self.events * RARE < self.n.sum())


def stratify(rows: Sequence[NoiseSums], dataset_size: float | None = None) -> Strata | None:
    """Pair neighbouring rows; None if there are fewer than two steps.

    `dataset_size` is N, the number of training examples. Sampling B of N without replacement gives
    E |mean|^2 = |G_N|^2 + tr Sigma (1/B - 1/N), with G_N the gradient over the whole set and Sigma its covariance with
    the N - 1 convention. The micro-batches follow the same formula with b for B, so 1/N cancels in S, which stays
    unbiased; Q = |mean|^2 - S/B has E Q = |G_N|^2 - tr Sigma / N, and Q + S/N is unbiased.
    """
    check_dataset_size(dataset_size)
    table = np.array([row.values for row in rows if row.n > 0], dtype=np.float64).reshape(-1, 6)
    if table[:, 0].sum() < 2:
        return None
    scale = float(max(np.abs(table[:, 1]).sum(), np.abs(table[:, 2]).sum())) / float(table[:, 0].sum()) or 1.0
    table[:, 1:3] /= scale
    table[:, 3:] = table[:, 3:] / scale / scale
    if dataset_size is not None:
        _correct(table, 1 / dataset_size)
    return _from_pairs(table, scale) if len(table) >= ENOUGH_ROWS else _from_moments(table, scale)


def pool(rows: Sequence[NoiseSums], blocks: int) -> list[NoiseSums]:
    """Merge neighbouring rows into at most `blocks` blocks of about equally many steps."""
    steps = sum(row.n for row in rows)
    pooled: dict[int, NoiseSums] = {}
    done = 0
    for row in rows:
        if row.n:
            index = int((done + row.n / 2) / steps * blocks)
            pooled[index] = pooled.get(index, NoiseSums()) + row
            done += row.n
    return list(pooled.values())


def check_dataset_size(dataset_size: float | None) -> None:
    """Raise InvalidInput unless the size is unknown (None) or at least two examples."""
    if dataset_size is not None and not (np.isfinite(dataset_size) and dataset_size >= 2):
        raise InvalidInput([Fault("dataset_size", f"is {dataset_size!r}; allowed is a finite number >= 2, or None")])


def effective_dof(variances: Array, dof: Array) -> int:
    """Degrees of freedom of a sum of variance estimates (Satterthwaite 1946).

    A squared estimate with d degrees of freedom is too large by a factor 1 + 2/d on average; without dividing by it,
    many estimates of one degree each would get a third of their proper weight.
    """
    fourth = float((variances**2 / (1 + 2 / dof) / dof).sum())
    most = int(dof.sum())
    return max(1, min(most, int(float(variances.sum()) ** 2 / fourth))) if fourth > 0 else most


def _correct(table: Array, inverse_size: float) -> None:
    """Replace Q by Q + S/N in the sums and in their second moments."""
    s, ss, sq = table[:, 1].copy(), table[:, 3].copy(), table[:, 5].copy()
    table[:, 2] += s * inverse_size
    table[:, 4] += 2 * sq * inverse_size + ss * inverse_size**2
    table[:, 5] += ss * inverse_size


def _from_pairs(table: Array, scale: float) -> Strata:
    """Strata of two neighbouring rows; the last one has three if the number of rows is odd."""
    starts = np.arange(0, len(table) - 1, 2)
    size = np.diff(np.append(starts, len(table)))
    n, s, q = (np.add.reduceat(table[:, i], starts) for i in range(3))
    # The deviation of a row's sum from its share of the stratum's sum, also for rows of unequal length.
    from_s = table[:, 1] - table[:, 0] * np.repeat(s / n, size)
    from_q = table[:, 2] - table[:, 0] * np.repeat(q / n, size)
    bessel = size / (size - 1)
    v_ss, v_sq, v_qq = (
        bessel * np.add.reduceat(a * b, starts) for a, b in ((from_s, from_s), (from_s, from_q), (from_q, from_q))
    )
    return Strata(n, s, q, v_ss, v_sq, v_qq, (size - 1).astype(np.float64), scale, len(table))


def _from_moments(table: Array, scale: float) -> Strata:
    """One stratum per row of at least two steps, with the row's own second moments; single steps join a neighbour."""
    joined = [table[0].copy()]
    for row in table[1:]:
        if joined[-1][0] < 2:
            joined[-1] += row
        else:
            joined.append(row.copy())
    if joined[-1][0] < 2:
        last = joined.pop()
        joined[-1] += last
    n, s, q, ss, qq, sq = np.array(joined).T
    bessel = n / (n - 1)
    v_ss, v_qq = bessel * np.maximum(ss - s * s / n, 0), bessel * np.maximum(qq - q * q / n, 0)
    return Strata(n, s, q, v_ss, bessel * (sq - s * q / n), v_qq, n - 1, scale, len(table))
