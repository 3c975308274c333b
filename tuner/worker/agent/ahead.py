"""How many assignments a device keeps ahead of its slots, so that none waits while a sync is under way.

A slot that becomes free just after a sync has left is told by the next one, so what ends during two round trips must be
at hand. Trials of one study often end together: what counts is the most that ended within such a time, not the mean.
Nothing further is kept: an assignment that waits here cannot be taken by another worker.
"""

import time
from collections import deque
from collections.abc import Callable

HORIZON_S = 10.0
"""Ends that lie further back are forgotten."""
MOST = 4096
"""Ends that are remembered, and so the most that is ever kept ahead."""
ROUND_TRIPS = 8
"""The slowest of so many is what one is taken to last."""


class Ahead:
    """Watches the ends of trials on one device, and how long syncs take. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=MOST)
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._seen_an_end = False

    def ended(self) -> None:
        """Note that a trial left its slot."""
        self._seen_an_end = True
        self._ends.append(self._clock())

    def answered(self, seconds: float) -> None:
        """Note how long a sync took from leaving to being obeyed."""
        self._round_trips.append(seconds)

    def count(self, width: int) -> int:
        """Say how many assignments to keep ahead of `width` slots, at least 1; an eighth of them before any end."""
        if not self._seen_an_end or not self._round_trips:
            return max(1, width // 8)
        now = self._clock()
        while self._ends and self._ends[0] < now - HORIZON_S:
            self._ends.popleft()
        return max(1, self._peak(2 * max(self._round_trips)))

    def _peak(self, window_s: float) -> int:
        """Return the most ends within any `window_s` seconds."""
        most, first, times = 0, 0, list(self._ends)
        for last, at in enumerate(times):
            while times[first] < at - window_s:
                first += 1
            most = max(most, last - first + 1)
        return most
