"""Random numbers that a data set's own code draws from the global generators of torch, numpy and Python.

Data sets with random transforms draw from them. Where every example is read after seeding all three, the same example
of the same trial is the same in every run.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def states() -> tuple[bytes, Any, Any]:
    """Return the generators' states, to be compared: they differ once a number was drawn."""
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), (kind, np.asarray(keys).tobytes(), *rest), random.getstate()


def seed_all(seed: int) -> None:
    """Seed all three from 64 bits."""
    torch.default_generator.manual_seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    random.seed(seed)


@contextmanager
def left_alone() -> Iterator[None]:
    """Restore the generators at the end."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
