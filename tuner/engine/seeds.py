"""Every random number of a trial derives from its seed, never from its attempt, its slot or its neighbours.

Independent streams are distinguished by purpose and counter, hashed as fixed-width bytes, so that no two of them
collide by concatenation and none depends on how often another was used.
"""

import hashlib
import struct

INITIALISATION = "initialisation"
DATA_ORDER = "data order"
STOCHASTIC_LAYERS = "dropout"
EVALUATION = "evaluation"
RECALIBRATION = "recalibration"


def derive(seed: int, purpose: str, counter: int = 0) -> int:
    """Return 64 bits that depend only on (seed, purpose, counter).

    `purpose` has at most 32 bytes, `counter` is in [0, 2^63); `seed` is any integer below 2^127 in size.
    """
    label = purpose.encode()
    if len(label) > 32:
        raise ValueError(f"the purpose {purpose!r} has {len(label)} bytes; allowed are 32")
    message = seed.to_bytes(16, "little", signed=True) + struct.pack("<32sq", label, counter)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")
