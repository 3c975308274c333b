"""What users may do to studies and trials, each in one transaction, and followed by the server's bells."""

import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Concatenate, ParamSpec

from sqlalchemy.orm import Session

from api.conductor import editing, enqueueing, pausing, single_trials, submitting
from api.conductor.closing import close
from api.conductor.retention import Retention
from api.conductor.submitting import Documents
from api.hub import Hub
from api.plans import Plans
from storage import attempts, checkpoints, events, studies, trials
from storage.database import Database
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.errors import InvalidTransition, NameTaken
from tuner.study.changes import merged, said
from tuner.study.hyperparameter import Scalar
from tuner.study.states import StudyState

P = ParamSpec("P")
Act = Callable[Concatenate[Session, StudyRecord, datetime, P], list[Change]]
"""Changes a study that is held, at a time; returns what it changed."""
LONGEST_NAME = 64


class Commands:
    """Each method is one command, in one transaction.

    A study is held first, so that commands on it come one after the other; then trials are locked, and last its row.
    """

    def __init__(self, database: Database, plans: Plans, hub: Hub, retention: Retention) -> None:
        self._database = database
        self._plans = plans
        self._hub = hub
        self._retention = retention
        self._documents = Documents(database, plans)

    def submit(
        self, document: Mapping[str, Any], *, idempotency_key: str | None = None, clone_of: str | None = None
    ) -> StudyRecord:
        """Validate and start a study. The same idempotency key gives the study of the first request.

        Raises:
            InvalidInput: every fault of the document.
            NameTaken: the name is in use, or the key was used with another document.
        """
        enqueueing.check_key(idempotency_key)
        # All that depends on the document alone is worked out before others have to wait for the write transaction.
        plan, given = self._documents.read(document)
        with self._database.write() as session:
            now = self._database.now(session)
            if idempotency_key is not None:
                earlier = studies.find_by_idempotency_key(session, idempotency_key=idempotency_key)
                if earlier is not None and not submitting.same(earlier, plan.spec):
                    raise NameTaken(f"Idempotency-Key {idempotency_key!r} was used with another study document")
                if earlier is not None:
                    return earlier
            data = {} if clone_of is None else {"clone_of": clone_of}
            study, changes = submitting.create(session, now, plan=plan, given=given, key=idempotency_key, data=data)
            events.append(session, changes=changes, now=now)
        self._plans.keep(study.id, plan)
        self._hub.ring(study.id)
        return study

    def clone(self, key: str, *, name: str | None, changes: Mapping[str, Any]) -> StudyRecord:
        """Start a study with the document of another one, changed by a merge patch.

        Without a name it gets that of the first with -2, -3 or whatever is free.

        Raises:
            InvalidInput: every fault of the changed document.
            NameTaken: the given name is in use.
        """
        with self._database.read() as session:
            study = studies.get(session, key)
        document = merged(said(study.document), changes)
        name = name if name is not None else changes.get("name")
        if name is not None:
            return self.submit({**document, "name": name}, clone_of=study.name)
        number = 2
        while True:
            try:
                return self.submit({**document, "name": numbered(study.name, number)}, clone_of=study.name)
            except NameTaken:
                number += 1

    def edit(self, key: str, changes: Mapping[str, Any]) -> StudyRecord:
        """Change a study while it runs, or after. Raises `InvalidInput` with every fault."""

        def act(session: Session, study: StudyRecord, now: datetime) -> list[Change]:
            return editing.edit(session, study, now, plan=self._plans.of(study), changes=changes)

        return self._on(key, act)

    def pause(self, key: str) -> StudyRecord:
        """Pause a study. Pausing twice is no error; raises `InvalidTransition` when it has ended."""
        return self._on(key, pausing.pause)

    def resume(self, key: str) -> StudyRecord:
        """Let a paused or stopped study go on. Resuming a running one is no error; a completed one cannot."""
        return self._on(key, pausing.resume)

    def stop(self, key: str) -> StudyRecord:
        """Stop a study: what waits is cancelled, what runs is told to end. Stopping twice is no error."""
        return self._on(key, _stop, why="study stopped")

    def delete(self, key: str) -> int:
        """Delete a study with all that belongs to it, and return its id; workers are told to stop its trials.

        It is stopped first, so that no trial of it is leased between the locks that deleting it takes.
        """
        with contextlib.suppress(InvalidTransition):  # it has ended
            self._on(key, _stop, why="study deleted")
        with self._database.write() as session:
            study = studies.get(session, key)
            studies.hold(session, study_id=study.id)
            attempts.leases(session, study_ids=[study.id], lock=True)
            files = checkpoints.paths(session, study_id=study.id)
            studies.delete_study(session, study_id=study.id)
        self._retention.delete(files)
        self._plans.forget(study.id)
        self._hub.ring(study.id)
        return study.id

    def enqueue(self, key: str, given: Mapping[str, Scalar], *, idempotency_key: str | None = None) -> TrialRecord:
        """Make a trial of a given configuration. The same idempotency key gives the trial of the first request.

        Raises:
            InvalidInput: every fault of the configuration.
            Conflict: the cap is used up, the study has ended, or the key was used with another configuration.
        """
        enqueueing.check_key(idempotency_key)
        with self._database.read() as session:
            study = studies.get(session, key)
        complete = self._documents.configuration(self._plans.of(study), given)
        with self._database.write() as session:
            study = _held(session, key)
            found = enqueueing.earlier(session, study, complete, idempotency_key)
            if found is None:
                now = self._database.now(session)
                changes = enqueueing.enqueue(
                    session, study, now, plans=self._plans, given=complete, key=idempotency_key
                )
                events.append(session, changes=changes, now=now)
                found = trials.get(session, study_id=study.id, number=changes[0].trial or 0)
        self._hub.ring(study.id, queued=1)
        return found

    def stop_trial(self, key: str, number: int) -> TrialRecord:
        """Cancel a trial that waits, or tell a running one to end. Raises `InvalidTransition` when it has ended."""
        study = self._on(key, single_trials.stop, number=number)
        return self._trial(study, number)

    def retry_trial(self, key: str, number: int) -> TrialRecord:
        """Try a failed, cancelled or infeasible trial again. Raises `InvalidTransition` for any other."""

        def act(session: Session, study: StudyRecord, now: datetime) -> list[Change]:
            return single_trials.retry(session, study, now, plan=self._plans.of(study), number=number)

        return self._trial(self._on(key, act), number)

    def _on(self, key: str, act: Act[P], *args: P.args, **more: P.kwargs) -> StudyRecord:
        """Do something to a study, and record what it changed; return the study after it."""
        with self._database.write() as session:
            study, now = _held(session, key), self._database.now(session)
            changes = act(session, study, now, *args, **more)
            if not changes:
                return study
            events.append(session, changes=changes, now=now)
            session.expire_all()
            study = studies.get(session, study.id)
        self._hub.ring(study.id)
        return study

    def _trial(self, study: StudyRecord, number: int) -> TrialRecord:
        with self._database.read() as session:
            return trials.get(session, study_id=study.id, number=number)


def numbered(name: str, number: int) -> str:
    """Return the name of a study's clone, e.g. `digits-2`."""
    suffix = f"-{number}"
    return name[: LONGEST_NAME - len(suffix)] + suffix


def _held(session: Session, key: str) -> StudyRecord:
    """Hold a study, and read it as it is then."""
    place = studies.place(session, key)
    studies.hold(session, study_id=place.id)
    return studies.get(session, place.id)


def _stop(session: Session, study: StudyRecord, now: datetime, *, why: str) -> list[Change]:
    if study.state == StudyState.STOPPED:
        return []
    return close(session, study=study, state=StudyState.STOPPED, reason="stopped by a user", why=why, now=now)
