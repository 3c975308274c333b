"""When leases may expire: only after this server has run without a gap for one full lease.

After an outage, a sleeping laptop or a jump of the clock every lease looks expired although the workers are well; they
get one lease of time to be heard.
"""

from datetime import datetime


class Grace:
    """Watches two clocks. A gap between ticks, or a jump of the wall clock, restarts the grace period."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._allowed_gap_s = max(1.0, lease_s / 4)
        self._since: float | None = None
        self._last_steady = 0.0
        self._last_wall: datetime | None = None

    def interrupt(self) -> None:
        """Restart the grace period: workers could not be heard."""
        self._since = None

    def tick(self, *, steady_s: float, wall: datetime) -> bool:
        """Note that the server is alive; True when leases may be expired now."""
        if self._since is None or self._last_wall is None:
            self._since = steady_s
        else:
            gap = steady_s - self._last_steady
            jump = abs((wall - self._last_wall).total_seconds() - gap)
            if gap > self._allowed_gap_s or jump > self._allowed_gap_s:
                self._since = steady_s
        self._last_steady, self._last_wall = steady_s, wall
        return steady_s - self._since >= self._lease_s
