"""How the curves of each study grow: how often something was reported, and how many examples a second.

It is counted as the reports arrive, so that nobody scans rows for it. Where several servers share a database, they tell
each other; while one cannot hear the others, it takes the curves of running studies to grow all the time.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

WINDOW_S = 20.0
"""How far back the rate looks."""
APART_S = 0.5
"""Reports closer together count as one."""
SHARED_S = 2.0
"""While other servers are not heard, curves are taken to have grown after so long."""
SILENT_GAPS = 3.0
"""A study that is silent for so many of its gaps between reports, beyond the window, has no rate any more."""


class _Track:
    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.seen: deque[tuple[float, int]] = deque()  # (time, total): the last WINDOW_S and one before

    def note(self, now: float, examples: int) -> None:
        self.count += 1
        self.total += examples
        if len(self.seen) > 2 and now - self.seen[-2][0] < APART_S:
            self.seen.pop()
        self.seen.append((now, self.total))
        while len(self.seen) > 2 and self.seen[1][0] < now - WINDOW_S:
            self.seen.popleft()

    def rate(self, now: float) -> float | None:
        if len(self.seen) < 2:
            return None
        (first, before), (last, total) = self.seen[0], self.seen[-1]
        gap = (last - first) / (len(self.seen) - 1)
        if last <= first or now - last > max(WINDOW_S, SILENT_GAPS * gap):
            return None
        return max(0, total - before) / (last - first)


class Growth:
    """Safe to use from any thread. `clock` returns steady seconds; `shared`: there are other servers, not heard yet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, shared: bool = False) -> None:
        self._clock = clock
        self._deaf_since = clock() if shared else None
        self._missed = 0
        """Times that curves may have grown while others were not heard."""
        self._tracks: dict[int, _Track] = {}
        self._lock = threading.Lock()

    def note(self, advanced: Mapping[int, int]) -> None:
        """Take in what one request reported: by study, the examples that its trials went on by."""
        now = self._clock()
        with self._lock:
            for study_id, examples in advanced.items():
                self._tracks.setdefault(study_id, _Track()).note(now, examples)

    def count(self, study_id: int, *, live: bool = True) -> int:
        """Return how often something was reported of a study: while it stays, no curve has grown.

        `live`: its trials may be training.
        """
        with self._lock:
            track = self._tracks.get(study_id)
            elsewhere = self._missed + (self._missing() if live else 0)
            return elsewhere + (track.count if track is not None else 0)

    def deaf(self) -> None:
        """Note that other servers are not heard from now on."""
        with self._lock:
            if self._deaf_since is None:
                self._deaf_since = self._clock()

    def hears(self) -> None:
        """Note that other servers are heard from now on; what they said until now was missed."""
        with self._lock:
            self._missed += self._missing() + 1
            self._deaf_since = None

    def _missing(self) -> int:
        return 0 if self._deaf_since is None else int((self._clock() - self._deaf_since) / SHARED_S)

    def rate(self, study_id: int) -> float | None:
        """Return the examples trained per second, over the last seconds; None before there are any."""
        with self._lock:
            track = self._tracks.get(study_id)
            return track.rate(self._clock()) if track is not None else None

    def forget(self, study_id: int) -> None:
        """Drop what is known of a deleted study."""
        with self._lock:
            self._tracks.pop(study_id, None)
