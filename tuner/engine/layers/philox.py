"""Philox-4x32-10: random bits as a function of a counter and a key, in integer arithmetic of torch or numpy.

Reference: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11, section 3.3,
https://doi.org/10.1145/2063384.2063405.

Invariants: no state, no reduction and no exchange between elements, so that a number depends only on its own counter
and key; every word is in [0, 2^32), held in int64. Products wrap modulo 2^64, with the bits of unsigned arithmetic.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Word = TypeVar("Word", Tensor, NDArray[np.int64])

ROUNDS = 10
MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Return four words for each counter of four words, under a key of two; int64, and they broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(ROUNDS):
        if turn:
            k0, k1 = (k0 + _KEY_STEPS[0]) & MASK, (k1 + _KEY_STEPS[1]) & MASK
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32) & MASK ^ c1 ^ k0,
            product1 & MASK,
            (product0 >> 32) & MASK ^ c3 ^ k1,
            product0 & MASK,
        )
    return c0, c1, c2, c3
