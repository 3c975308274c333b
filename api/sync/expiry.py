"""Ends leases whose worker is gone: the trial goes back into the queue and resumes from its last checkpoint.

Leases expire only after the server itself has been up for a full lease (see `grace.py`).
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from api.hub import Hub
from api.plans import Plans
from api.servers.ownership import Ownership
from api.sync import endings, leases
from api.sync.endings import Ending
from api.sync.grace import Grace
from storage import attempts, events
from storage.database import Database

log = logging.getLogger(__name__)


class Expiry:
    """Call `round` often; `interrupt` when syncs could not be stored."""

    def __init__(
        self,
        database: Database,
        plans: Plans,
        hub: Hub,
        ownership: Ownership,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives steady seconds."""
        self._clock = clock
        self._database = database
        self._plans = plans
        self._hub = hub
        self._ownership = ownership
        self._grace = Grace(lease_s)
        self._lease = timedelta(seconds=lease_s)

    def interrupt(self) -> None:
        """Restart the grace period: workers could not be heard."""
        self._grace.interrupt()

    def _shorten(self) -> None:
        """Bring leases back that were granted while the clock was ahead: none is longer than a lease from now."""
        with self._database.write() as session:
            latest = self._database.now(session) + self._lease
            if attempts.shorten(session, latest=latest):
                log.warning("the clock went back: leases were shortened", extra={"action": "lease_shortened"})

    def round(self, study_ids: list[int]) -> None:
        """End the leases that ran out in these studies, unless the server itself was away.

        Raises:
            NotOwned: another server drives some of them now.
        """
        with self._database.read() as session:
            now, longest = self._database.now(session), attempts.longest(session)
        if longest is not None and longest > now + self._lease:
            self._shorten()
        with self._database.read() as session:
            now = self._database.now(session)
            if not self._grace.tick(steady_s=self._clock(), wall=now):
                return
            if not attempts.leases(session, study_ids=study_ids, expired_at=now):
                return
        with self._database.write() as session:
            self._ownership.confirm(session, study_ids)
            now = self._database.now(session)
            pairs = attempts.leases(session, study_ids=study_ids, expired_at=now, lock=True)
            lost = list(leases.joined(session, self._plans, pairs).values())
            for lease in lost:
                lease.end("lost", now=now)
            changes = endings.conclude(session, [Ending(lease) for lease in lost], now=now)
            leases.save(session, lost)
            events.append(session, changes=changes, now=now)
        for lease in lost:
            where = {"trial": lease.trial.id, "worker": lease.attempt.worker_id}
            log.warning("lease lost", extra={"action": "lease_lost", **where})
        self._hub.ring(*{change.study_id for change in changes}, queued=len(lost))
