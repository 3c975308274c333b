"""Every random number of a trial derives from its seed, never from its attempt, its slot or its neighbours.

Independent streams are distinguished by purpose and counter, hashed as fixed-width bytes, so that no two of them
collide by concatenation and none depends on how often another was used.
"""

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

INITIALISATION = "initialisation"
DATA_ORDER = "data order"
STOCHASTIC_LAYERS = "dropout"
EVALUATION = "evaluation"
RECALIBRATION = "recalibration"
AUGMENTATION = "augmentation"
WEIGHTED_DRAWS = "weighted draws"
PARTNERS = "partners"


def derive(seed: int, purpose: str, counter: int = 0) -> int:
    """Return 64 bits that depend only on (seed, purpose, counter).

    `purpose` has at most 32 bytes, `counter` is in [0, 2^63); `seed` is any integer below 2^127 in size.
    """
    label = purpose.encode()
    if len(label) > 32:
        raise ValueError(f"the purpose {purpose!r} has {len(label)} bytes; allowed are 32")
    message = seed.to_bytes(16, "little", signed=True) + struct.pack("<32sq", label, counter)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")


def example_seeds(seed: int, start: int, count: int) -> NDArray[np.uint64]:
    """Return 64 bits for each of the `count` examples from position `start` of a trial's stream on.

    They depend only on the trial's seed and the position, that is epoch and place.
    """
    return position_bits(seed, AUGMENTATION, start, count)


def position_bits(seed: int, purpose: str, start: int, count: int) -> NDArray[np.uint64]:
    """Return 64 bits for each of `count` positions from `start` on, which depend only on (seed, purpose, position).

    SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") with a key as its start.
    """
    state = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(derive(seed, purpose))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
