"""How many assignments a device keeps ahead of its slots, so that no slot waits during a sync.

A slot that becomes free just after a sync was sent is reported by the next one, so the replacements for all trials that
end during two round trips must be available. Trials of one study often end together, so the maximum number of ends
within that time counts, not the mean. No more are kept: an assignment that waits here cannot be taken by another
worker.
"""

import time
from collections import deque
from collections.abc import Callable

HORIZON_S = 10.0
"""Older ends are forgotten."""
MOST = 4096
"""Ends that are remembered, and thus the most assignments ever kept ahead."""
ROUND_TRIPS = 8
"""The assumed duration of a sync is the longest of this many."""


class Ahead:
    """Tracks the ends of trials on one device, and the duration of syncs. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=MOST)
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._seen_an_end = False

    def ended(self) -> None:
        """Record that a trial left its slot."""
        self._seen_an_end = True
        self._ends.append(self._clock())

    def answered(self, seconds: float) -> None:
        """Record the time from sending a sync to applying its reply."""
        self._round_trips.append(seconds)

    def count(self, width: int) -> int:
        """Return how many assignments to keep ahead of `width` slots, at least 1; `width` / 8 before any end."""
        if not self._seen_an_end or not self._round_trips:
            return max(1, width // 8)
        now = self._clock()
        while self._ends and self._ends[0] < now - HORIZON_S:
            self._ends.popleft()
        return max(1, self._peak(2 * max(self._round_trips)))

    def _peak(self, window_s: float) -> int:
        """Return the maximum number of ends within any `window_s` seconds."""
        most, first, times = 0, 0, list(self._ends)
        for last, at in enumerate(times):
            while times[first] < at - window_s:
                first += 1
            most = max(most, last - first + 1)
        return most
