"""What each slot is doing, kept on the host: no tick waits for the device to find out which slots are due.

One array per quantity, one entry per slot, so that a tick costs a handful of numpy calls whatever the width.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Slots:
    """Occupation and progress of `width` slots that advance by ticks of `tick_examples` examples each."""

    def __init__(self, width: int, tick_examples: int) -> None:
        self.tick_examples = tick_examples
        self.occupied = np.zeros(width, bool)
        self.ticks_per_step: Ints = np.ones(width, np.int64)
        """B over the examples of a tick."""
        self.tick_in_step: Ints = np.zeros(width, np.int64)
        self.step: Ints = np.zeros(width, np.int64)
        """Updates done."""
        self.next_evaluation: Ints = np.zeros(width, np.int64)
        """The step after which the slot is evaluated next."""
        self.ticks: Ints = np.zeros(width, np.int64)
        """Ticks since the slot's trial came."""
        self.computed = np.zeros(width)
        """Slot-ticks computed for it: every slot costs the same, and the occupied ones share the empty ones."""

    def occupy(self, slot: int, ticks_per_step: int, step: int, tick_in_step: int, next_evaluation: int) -> None:
        """Start counting for a slot."""
        self.occupied[slot] = True
        self.ticks_per_step[slot] = ticks_per_step
        self.step[slot] = step
        self.tick_in_step[slot] = tick_in_step
        self.next_evaluation[slot] = next_evaluation
        self.ticks[slot] = self.computed[slot] = 0

    def release(self, slot: int) -> None:
        """Stop counting for a slot."""
        self.occupied[slot] = False
        self.tick_in_step[slot] = 0

    def free(self) -> int | None:
        """Return the first free slot, or None."""
        places = np.flatnonzero(~self.occupied)
        return int(places[0]) if len(places) else None

    def busy(self) -> Ints:
        """Return the occupied slots, ascending."""
        return np.flatnonzero(self.occupied)

    def advance(self) -> Ints:
        """Count one tick; return the slots whose step is complete, ascending. Their `step` is not yet counted."""
        self.tick_in_step += self.occupied
        self.ticks += self.occupied
        self.computed += self.occupied * (len(self.occupied) / (int(np.count_nonzero(self.occupied)) or 1))
        return np.flatnonzero(self.occupied & (self.tick_in_step >= self.ticks_per_step))

    def count_steps(self, due: Ints) -> Ints:
        """Count the update of the due slots; return those that must be evaluated now."""
        self.step[due] += 1
        self.tick_in_step[due] = 0
        return due[self.step[due] >= self.next_evaluation[due]]

    def examples(self, slot: int) -> int:
        """Examples that the slot's trial has seen, the unfinished step included."""
        ticks = self.step[slot] * self.ticks_per_step[slot] + self.tick_in_step[slot]
        return int(ticks) * self.tick_examples

    @property
    def measures_noise(self) -> bool:
        """Whether some occupied slot accumulates at least two micro-batches, so that its noise can be seen."""
        return bool((self.ticks_per_step[self.occupied] >= 2).any())
