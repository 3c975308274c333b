"""Which examples a trial sees where they are drawn by weight, with replacement.

The number at a position of a trial's stream is the example in whose stretch of the running sum of weights a uniform
number falls, which depends only on the trial's seed and the position. So a stream can be entered anywhere, and is the
same for any micro-batch. There are no epochs: counts of examples are counts of draws.

Invariant: sums are taken in order and in float64, so the stream is the same on every machine.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuner.engine.seeds import WEIGHTED_DRAWS, position_bits
from tuner.engine.slots import Ints


class Chances:
    """The weights of a task's examples."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        """`weights` [n] are finite, none is negative, and not all are zero."""
        self._ends = np.cumsum(weights, dtype=np.float64)
        self._last = int(np.flatnonzero(weights)[-1])

    def take_each(self, seeds: Sequence[int], starts: Sequence[int], count: int, purpose: str = WEIGHTED_DRAWS) -> Ints:
        """Return `count` example numbers of the streams of n trials, each from its own position, [n, count].

        Numbers for different purposes are drawn independently.
        """
        found = np.empty((len(seeds), count), np.int64)
        for row, seed, start in zip(found, seeds, starts, strict=True):
            uniform = (position_bits(seed, purpose, start, count) >> np.uint64(11)) * 2.0**-53
            row[:] = np.searchsorted(self._ends, uniform * self._ends[-1], side="right")
        return np.minimum(found, self._last)  # a product may be rounded up to the sum
