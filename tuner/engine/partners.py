"""The partner of an example: another one of the data set, where a task's transform mixes two (mixup, pasted patches).

A partner depends only on the trial's seed and the position in its stream. It is drawn as examples are: uniformly, or by
the weights of a task that has them. An entry of such a stream holds both, number + partner 2^32, so that whatever moves
example numbers moves partners with them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuner.engine.layers.philox import MASK
from tuner.engine.seeds import PARTNERS, position_bits
from tuner.engine.slots import Ints

PARTNER_SEED = np.uint64(0x9E3779B97F4A7C15)
"""What tells the seed of a partner that augments itself from its example's."""


def uniform_each(seeds: Sequence[int], starts: Sequence[int], count: int, examples: int) -> Ints:
    """Return the partners at `count` positions of the streams of n trials, each from its own position, [n, count]."""
    found = np.empty((len(seeds), count), np.int64)
    for row, seed, start in zip(found, seeds, starts, strict=True):
        words = (position_bits(seed, PARTNERS, start, count) >> np.uint64(32)).astype(np.int64)
        row[:] = (words * examples) >> 32
    return found


def entries(numbers: Ints, partners: Ints) -> Ints:
    """Join example numbers, below 2^31, with their partners'."""
    return numbers | (partners << 32)


def halves(entries: Any) -> tuple[Any, Any]:
    """Return the numbers and the partners of entries, an array or a tensor of int64."""
    return entries & MASK, entries >> 32
