"""Losses and squared gradient norms of the last ticks, kept on the device until they are read back together.

Reading a number waits for the device; one read per `TICKS` ticks keeps that off the hot path. The price: a divergence
is noticed up to `TICKS` ticks late. It is still dated to its own tick, so results do not depend on when it was read.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.engine.slots import Ints

TICKS = 16


@dataclass(frozen=True)
class Entries:
    """One slot's values, tick by tick."""

    losses: list[float]
    squares: list[float]
    """Squared norm of each micro-batch gradient."""
    means: list[float]
    """Squared norm of the step's mean gradient, where `due`."""
    due: list[bool]


class Ledger:
    """A table of up to `TICKS` ticks of `width` slots."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._values = torch.zeros(TICKS, 3, width, dtype=torch.float64, device=device)
        self._due = np.zeros((TICKS, width), bool)
        self._length = 0

    @property
    def full(self) -> bool:
        """Whether it must be read before the next tick."""
        return self._length == TICKS

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return self._length == 0

    def open(self) -> Tensor:
        """Begin a tick; return the place for its losses, squared norms and squared norms of the means, [3, width]."""
        self._due[self._length] = False
        return self._values[self._length]

    def close(self, due: Ints) -> None:
        """End the tick: these slots completed a step in it."""
        self._due[self._length, due] = True
        self._length += 1

    def read(self) -> "Reading":
        """Return everything and start afresh."""
        length, self._length = self._length, 0
        return Reading(self._values[:length].cpu().numpy(), self._due[:length].copy())


@dataclass(frozen=True)
class Reading:
    """A ledger's content on the host: [ticks, 3, width] and [ticks, width]."""

    values: NDArray[np.float64]
    due: NDArray[np.bool_]

    def of(self, slot: int) -> Entries:
        """Return one slot's ticks."""
        losses, squares, means = self.values[:, :, slot].T.tolist() if len(self.due) else ([], [], [])
        return Entries(losses, squares, means, self.due[:, slot].tolist())
