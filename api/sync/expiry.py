"""Ends leases whose worker is gone: the trial goes back into the queue and resumes from its last checkpoint.

Leases expire only while the server hears its workers (see `grace.py`).
"""

import logging
import time

from api.hub import Hub
from api.plans import Plans
from api.sync import endings
from api.sync.grace import Grace
from storage import attempts, events, studies, trials
from storage.database import Database
from storage.events import Change

log = logging.getLogger(__name__)


class Expiry:
    """Call `round` often; `interrupt` when syncs could not be stored."""

    def __init__(self, database: Database, plans: Plans, hub: Hub, lease_s: float) -> None:
        self._database = database
        self._plans = plans
        self._hub = hub
        self._grace = Grace(lease_s)

    def interrupt(self) -> None:
        """Give every lease its full time again: workers could not be heard."""
        self._grace.interrupt()

    def round(self, study_ids: list[int]) -> None:
        """End the leases that ran out in these studies, unless the server itself was away."""
        with self._database.read() as session:
            now = self._database.now(session)
            if not self._grace.tick(steady_s=time.monotonic(), wall=now):
                return
            if not attempts.expired(session, study_ids=study_ids, now=now):
                return
        with self._database.write() as session:
            now = self._database.now(session)
            changes: list[Change] = []
            lost = attempts.expired(session, study_ids=study_ids, now=now)
            for lease in lost:
                trial = trials.by_ids(session, ids=[lease.trial_id])[lease.trial_id]
                attempts.end(session, trial_id=trial.id, attempt=lease.attempt, outcome="lost", now=now)
                plan = self._plans.of(studies.get(session, trial.study_id))
                changes += endings.give_back(session, trial=trial, plan=plan, outcome="lost", now=now)
            events.append(session, changes=changes, now=now)
        for lease in lost:
            log.warning(
                "lease lost", extra={"action": "lease_lost", "trial": lease.trial_id, "worker": lease.worker_id}
            )
        self._hub.ring()
