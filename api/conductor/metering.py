"""Device time: how long studies held devices, looked at every few seconds.

A device that several studies hold at once is divided among them by priority, as its ticks are; several processes on one
device are one device. Time that the server was away does not count: it cannot know what happened then. Where a
study's server changes, a look or two are missing, and none is counted twice.
"""

import time
from collections import defaultdict
from collections.abc import Callable

from api.servers.ownership import Ownership
from storage import attempts, usage
from storage.database import Database

EVERY_S = 2.0
LONGEST_S = 3 * EVERY_S
"""More than this between two looks is an outage."""


class Metering:
    """Call `round` every few seconds."""

    def __init__(self, database: Database, ownership: Ownership, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives steady seconds."""
        self._database = database
        self._ownership = ownership
        self._clock = clock
        self._looked_at: float | None = None

    def round(self, study_ids: set[int]) -> None:
        """Charge these studies, driven by this server since then, for the time since the last look.

        Raises:
            NotOwned: another server drives some of them now.
        """
        now = self._clock()
        before, self._looked_at = self._looked_at, now
        if before is None or now - before > LONGEST_S:
            return
        with self._database.read() as session:
            shares = divided(attempts.holders(session))
        seconds = {study: share * (now - before) for study, share in shares.items() if study in study_ids}
        if seconds:
            with self._database.write() as session:
                self._ownership.confirm(session, seconds)
                usage.add_device_time(session, seconds=seconds)


def divided(holders: list[tuple[tuple[int, str], int, float]]) -> dict[int, float]:
    """Return how many devices each study has, from (worker and device), study and priority of all that holds some."""
    on_device: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for (worker, device), study, priority in holders:
        on_device[worker, device.partition("#")[0]][study] = priority
    shares: dict[int, float] = defaultdict(float)
    for studies in on_device.values():
        whole = sum(studies.values())
        for study, priority in studies.items():
            shares[study] += priority / whole
    return dict(shares)
