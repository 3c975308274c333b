"""The micro-batches of a study: how many examples each slot sees per tick. They are part of the study's identity.

Every batch size must be a multiple of it. The smallest batch should hold at least two micro-batches, so that every
trial measures its gradient noise; four measure it better. What is legal follows from the divisors of the batch sizes'
greatest common one, found up to its square root: the cost does not grow with the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, isqrt

SMALLEST_OF_FOUR = 4
"""Four parts are used if the micro-batch is then at least this: smaller ones leave a device idle."""


@dataclass(frozen=True)
class Group:
    """Batch sizes of a study that share a micro-batch, and thus a stack."""

    micro_batch: int
    batch_sizes: tuple[int, ...]


def grouped(batch_sizes: Sequence[int]) -> list[Group]:
    """Divide a study's batch sizes into groups; each size is in one, and a multiple of its group's micro-batch."""
    return [Group(default_micro_batch(batch_sizes), tuple(batch_sizes))]


def legal_micro_batches(batch_sizes: Sequence[int]) -> list[int]:
    """Return the common divisors that split the smallest batch into two or more parts, ascending; [1] if none does."""
    common, most = gcd(*batch_sizes), min(batch_sizes) // 2
    lower = [size for size in range(1, isqrt(common) + 1) if common % size == 0]
    return sorted({size for low in lower for size in (low, common // low) if size <= most}) or [1]


def default_micro_batch(batch_sizes: Sequence[int]) -> int:
    """Return the default of a study: the largest legal one that gives four parts and is 4 or more, or else the largest
    legal one.
    """
    return _default(tuple(batch_sizes))


@lru_cache(maxsize=256)
def _default(batch_sizes: tuple[int, ...]) -> int:
    """Remembered: it is asked for with every trial that is leased."""
    legal = legal_micro_batches(batch_sizes)
    quarter = max((size for size in legal if size <= min(batch_sizes) // 4), default=1)
    return quarter if quarter >= SMALLEST_OF_FOUR else legal[-1]
