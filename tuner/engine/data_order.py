"""Which examples a trial sees, in which order: one endless stream per trial, wrapping epochs.

The stream depends only on the trial's seed and the size of the data set. It does not depend on micro-batch or batch
size, so trials that differ in them see the same examples at the same count. Memory: one permutation, regardless of the
budget.
"""

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from tuner.engine.seeds import DATA_ORDER, derive


class DataOrder:
    """The stream of example numbers of one trial: a fresh permutation of 0..examples-1 per epoch."""

    def __init__(self, seed: int, examples: int) -> None:
        self.seed = seed
        self.examples = examples
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def take(self, start: int, count: int) -> NDArray[np.int64]:
        """Return `count` example numbers of the stream, starting at position `start` (examples seen so far)."""
        parts = []
        while count > 0:
            epoch, place = divmod(start, self.examples)
            part = self._of_epoch(epoch)[place : place + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            bits = PCG64(derive(self.seed, DATA_ORDER, epoch))
            self._permutation = Generator(bits).permutation(self.examples)
            self._epoch = epoch
        return self._permutation
