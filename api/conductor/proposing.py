"""Filling the queue of a study: asks the sampler, and stores its proposals as queued trials.

A request that the sampler cannot answer is asked again a few times, later each time; then the study fails and says why.
"""

import logging

from api.conductor import proposals
from api.conductor.asker import Asker, SamplerFailed
from api.conductor.closing import close
from api.conductor.histories import Histories
from api.hub import Hub
from api.plans import Plans
from api.servers.ownership import Ownership
from storage import events, studies, trials
from storage.database import Database
from tuner.search.request import AskRequest
from tuner.study.states import StudyState

log = logging.getLogger(__name__)
MOST_FAILURES = 3
"""Times that the sampler may fail on one request."""


class Proposing:
    """Asks for one study at a time; not thread-safe."""

    def __init__(self, database: Database, plans: Plans, hub: Hub, asker: Asker, ownership: Ownership) -> None:
        self._database = database
        self._plans = plans
        self._hub = hub
        self._asker = asker
        self._ownership = ownership
        self._histories = Histories()
        self._failed: dict[int, tuple[AskRequest, int]] = {}
        """By study: the request that the sampler failed on last, and how often."""

    def fill(self, study_id: int) -> None:
        """Create the trials that the study has room for.

        Raises:
            SamplerFailed: the sampler did not answer; ask again later.
            Outrun: the study moved on meanwhile.
            NotOwned: another server drives it now.
        """
        with self._database.read() as session:
            study = studies.get(session, study_id)
            plan = self._plans.of(study)
            in_flight = trials.count_in_flight(session, study_id=study_id)
            wanted = proposals.wanted(session, study=study, plan=plan, in_flight=in_flight, histories=self._histories)
        if wanted is None:
            return
        answers = {}
        for family, request in wanted.requests.items():
            try:
                answers[family] = self._asker.ask(request)
            except SamplerFailed as error:
                if self._hub.closing.is_set():
                    return
                self._note_failure(study_id, request, error)
                raise
        self._failed.pop(study_id, None)
        with self._database.write() as session:
            self._ownership.confirm(session, [study_id])
            now = self._database.now(session)
            proposals.store(session, study=study, plan=plan, wanted=wanted, answers=answers, now=now)
        self._hub.ring(study_id, queued=len(wanted.turns))

    def _note_failure(self, study_id: int, request: AskRequest, error: SamplerFailed) -> None:
        """Count the failures of one request in a row; the study fails at the last."""
        before, count = self._failed.get(study_id, (request, 0))
        count = count + 1 if before == request else 1
        self._failed[study_id] = request, count
        if count < MOST_FAILURES:
            return
        del self._failed[study_id]
        reason = f"{error} ({count} times)"
        log.error("study failed: %s", reason, extra={"action": "study_failed", "study": study_id})
        with self._database.write() as session:
            self._ownership.confirm(session, [study_id])
            study = studies.get(session, study_id)
            if study.state == StudyState.RUNNING:
                now = self._database.now(session)
                changes = close(
                    session, study=study, state=StudyState.FAILED, reason=reason, why="study failed", now=now
                )
                events.append(session, changes=changes, now=now)
        self._hub.ring(study_id)
