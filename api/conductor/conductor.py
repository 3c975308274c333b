"""The conductor: drives every study that has work, until it is over.

Tasks, each in a thread of its own: leases expire, studies that are done are closed, the queue is filled, device time is
metered, the store is tidied. A slow sampler or object store therefore delays neither expiry nor another study's end.
Every task reads first and opens a write transaction only when there is something to write.

It acts only on studies that this server drives (`api/servers/ownership.py`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from api.conductor import budgets, failures, target
from api.conductor.closing import close
from api.conductor.metering import EVERY_S, Metering
from api.conductor.proposing import Proposing
from api.conductor.retention import Retention
from api.conductor.tasks import Task
from api.conductor.troubles import Troubles
from api.hub import Hub
from api.plans import Plans
from api.servers.ownership import TIDYING, NotOwned, Ownership
from api.waits import Waits
from storage import events, studies, trials
from storage.database import Database
from storage.studies import StudyRecord
from tuner.study.states import StudyState

log = logging.getLogger(__name__)
PATIENCE_S = 30.0
"""An idle worker's sync may wait so long, and is noted as seen only now and then."""


class Expires(Protocol):
    """Ends leases that ran out (`api.sync.expiry`)."""

    def round(self, study_ids: list[int]) -> None:
        """End the leases that ran out in these studies."""

    def interrupt(self) -> None:
        """Give every lease its full time again."""


class Conductor:
    """Runs as one task on the server's event loop; its database work happens in threads."""

    def __init__(
        self,
        database: Database,
        plans: Plans,
        hub: Hub,
        proposing: Proposing,
        expiry: Expires,
        retention: Retention,
        ownership: Ownership,
        waits: Waits,
        others: Sequence[Task] = (),
        *,
        lease_s: float,
    ) -> None:
        """`others` run beside the conductor's own tasks; a worker not seen for `lease_s` and half a minute is gone."""
        self._patience = timedelta(seconds=max(lease_s, PATIENCE_S))
        self._database = database
        self._plans = plans
        self._hub = hub
        self._proposing = proposing
        self._expiry = expiry
        self._retention = retention
        self._ownership = ownership
        self._lease_s = lease_s
        self._closing = Troubles()
        self._asking = Troubles()
        self._metering = Metering(database, ownership)
        every_s, bell = waits.tick_s, hub.changes
        self.tasks = [
            # No sync was stored either while the database could not be used, so no lease may expire for it.
            Task("expiry", self._expire, every_s, failed=expiry.interrupt),
            Task("studies", self._close_finished, every_s, bell=bell, apart_s=waits.apart_s),
            Task("proposals", self._propose, every_s, bell=bell, apart_s=waits.apart_s),
            Task("metering", self._meter, EVERY_S),
            Task("retention", self._tidy, every_s),
            *others,
        ]

    def trouble(self, study_id: int) -> str | None:
        """Return what keeps the server from driving a study, None if nothing does, or if another one drives it."""
        found = self._asking.text(study_id) or self._closing.text(study_id)
        if found is None:
            return None
        with self._ownership.acting([study_id]) as mine:
            return found if mine else None

    async def run(self) -> None:
        """Run all tasks until the server closes."""
        await asyncio.gather(*(task.run(self._hub.closing) for task in self.tasks))

    def _expire(self) -> None:
        # Whoever takes a study over gives its workers a whole lease to find another server.
        with suppress(NotOwned), self._ownership.acting(self._ids(), for_s=self._lease_s) as mine:
            self._expiry.round(mine)

    def _close_finished(self) -> None:
        self._closing.each(self._ids(), self._if_mine(self._tend))

    def _propose(self) -> None:
        self._asking.each(self._ids(), self._if_mine(self._proposing.fill))

    def _meter(self) -> None:
        with suppress(NotOwned), self._ownership.acting(self._ids(), for_s=EVERY_S) as mine:
            self._metering.round(set(mine))

    def _tidy(self) -> None:
        with self._ownership.acting([TIDYING]) as mine:
            if mine:
                self._retention.tick(time.monotonic())

    def _ids(self) -> list[int]:
        with self._database.read() as session:
            return studies.ids_with_work(session)

    def _if_mine(self, act: Callable[[int], None]) -> Callable[[int], None]:
        def guarded(study_id: int) -> None:
            with self._ownership.acting([study_id]) as mine:
                if mine and not self._hub.closing.is_set():
                    act(study_id)

        return guarded

    def _tend(self, study_id: int) -> None:
        with self._database.read() as session:
            study = studies.get(session, study_id)
            plan = self._plans.of(study)
            reached = target.reached(session, study_id=study_id, plan=plan)
            in_flight = trials.count_in_flight(session, study_id=study_id)
            now = self._database.now(session)
            seen_since = now - self._patience
            spent = budgets.reason(session, study_id=study_id, plan=plan, in_flight=in_flight, now=now)
            hopeless = failures.verdict(session, study=study, plan=plan, in_flight=in_flight, seen_since=seen_since)
        if study.state != StudyState.RUNNING:
            return
        if hopeless is not None:
            self._end(study, StudyState.FAILED, hopeless, "study failed")
        elif reached:
            reason = f"the target {plan.spec.metric.target:g} was reached"
            self._end(study, StudyState.COMPLETED, reason, reason)
        elif spent is not None:
            self._end(study, StudyState.COMPLETED, spent, "budget")
        elif in_flight == 0 and study.runs >= study.run_cap:
            self._end(study, StudyState.COMPLETED, None, "study completed")

    def _end(self, study: StudyRecord, state: StudyState, reason: str | None, why: str) -> None:
        with self._database.write() as session:
            self._ownership.confirm(session, [study.id])
            now = self._database.now(session)
            changes = close(session, study=study, state=state, reason=reason, why=why, now=now)
            events.append(session, changes=changes, now=now)
        log.info("study %s", state, extra={"action": f"study_{state}", "study": study.name, "reason": reason})
        self._hub.ring(study.id)
