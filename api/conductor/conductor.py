"""The conductor: drives every study that has work, until it is over.

Each round it expires lost leases, fills the queue and closes studies that are done. A round is triggered by any change
and at least every `TICK_S`; it reads first and opens a write transaction only when there is something to write.
"""

import asyncio
import logging
import time
from typing import Protocol

from api.conductor import failures, proposals
from api.conductor.asker import Asker, SamplerFailed
from api.conductor.proposals import Outrun, Wanted
from api.conductor.retention import Retention
from api.hub import Hub, wait
from api.plans import Plan, Plans
from storage import events, studies, trials
from storage.database import Database, DatabaseUnusable
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.errors import NotFound
from tuner.study.states import StudyState, TrialState

log = logging.getLogger(__name__)
TICK_S = 0.5
STORAGE_PAUSE_S = 2.0
"""Pause after the database could not be written."""


class Expires(Protocol):
    """Ends leases that ran out (`api.sync.expiry`)."""

    def round(self, study_ids: list[int]) -> None:
        """End the leases that ran out in these studies."""

    def interrupt(self) -> None:
        """Give every lease its full time again."""


class Conductor:
    """Runs as one task on the server's event loop; its database work happens in a thread."""

    def __init__(
        self, database: Database, plans: Plans, hub: Hub, asker: Asker, expiry: Expires, retention: Retention
    ) -> None:
        self._database = database
        self._plans = plans
        self._hub = hub
        self._asker = asker
        self._expiry = expiry
        self._retention = retention

    async def run(self) -> None:
        """Run rounds until the server closes."""
        while not self._hub.closing.is_set():
            ticket = self._hub.changes.ticket()
            pause_s = TICK_S
            try:
                await asyncio.to_thread(self.round)
            except DatabaseUnusable as error:
                # A full disk: no sync was stored either, so no lease may expire for it.
                log.error("%s", error, extra={"action": "storage"})
                self._expiry.interrupt()
                ticket, pause_s = asyncio.Event(), STORAGE_PAUSE_S
            await wait(ticket, pause_s)

    def round(self) -> None:
        """Run one round over all studies with work."""
        with self._database.read() as session:
            study_ids = studies.ids_with_work(session)
        self._expiry.round(study_ids)
        for study_id in study_ids:
            try:
                self._tend(study_id)
            except (NotFound, Outrun):
                continue  # deleted, or changed by another request: the next round reads it again
            except SamplerFailed as error:
                if not self._hub.closing.is_set():
                    self._fail(study_id, str(error))
        self._retention.tick(time.monotonic())

    def _tend(self, study_id: int) -> None:
        with self._database.read() as session:
            study = studies.get(session, study_id)
            plan = self._plans.of(study)
            best = trials.best(session, study_id=study_id, minimize=plan.minimize)
            in_flight = trials.count_in_flight(session, study_id=study_id)
            wanted = proposals.wanted(session, study=study, plan=plan, in_flight=in_flight)
            hopeless = failures.verdict(session, study=study, plan=plan, in_flight=in_flight)
        if study.state != StudyState.RUNNING:
            return
        if hopeless is not None:
            self._fail(study_id, hopeless)
        elif self._target_reached(plan, best):
            self._complete(study, f"the target {plan.spec.metric.target:g} was reached", stop_running=True)
        elif wanted is not None:
            self._propose(study, plan, wanted)
        elif in_flight == 0 and study.runs >= study.run_cap:
            self._complete(study, None, stop_running=False)

    def _propose(self, study: StudyRecord, plan: Plan, wanted: Wanted) -> None:
        answers = {family: self._asker.ask(request) for family, request in wanted.requests.items()}
        with self._database.write() as session:
            now = self._database.now(session)
            proposals.store(session, study=study, plan=plan, wanted=wanted, answers=answers, now=now)
        self._hub.ring()

    def _target_reached(self, plan: Plan, best: TrialRecord | None) -> bool:
        metric = plan.spec.metric
        if not metric.stop_on_target or metric.target is None or best is None or best.value is None:
            return False
        return best.value <= metric.target if plan.minimize else best.value >= metric.target

    def _complete(self, study: StudyRecord, reason: str | None, *, stop_running: bool) -> None:
        with self._database.write() as session:
            now = self._database.now(session)
            changes: list[Change] = []
            if stop_running and reason is not None:
                for number in trials.cancel_queued(session, study_id=study.id, why=reason, now=now):
                    changes.append(Change(study.id, f"trial.{TrialState.CANCELLED}", number, {"reason": reason}))
                trials.order_stop(session, study_id=study.id, why=reason)
            studies.set_state(
                session, study_id=study.id, old=study.state, new=StudyState.COMPLETED, reason=reason, now=now
            )
            changes.append(Change(study.id, "study.completed", None, {"reason": reason}))
            events.append(session, changes=changes, now=now)
        log.info("study completed", extra={"action": "study_completed", "study": study.name})
        self._hub.ring()

    def _fail(self, study_id: int, reason: str) -> None:
        log.error("study failed: %s", reason, extra={"action": "study_failed", "study": study_id})
        with self._database.write() as session:
            now = self._database.now(session)
            study = studies.get(session, study_id)
            if study.state != StudyState.RUNNING:
                return
            studies.set_state(
                session, study_id=study_id, old=study.state, new=StudyState.FAILED, reason=reason, now=now
            )
            events.append(session, changes=[Change(study_id, "study.failed", None, {"reason": reason})], now=now)
        self._hub.ring()
