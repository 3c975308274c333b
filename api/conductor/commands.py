"""What users may do to studies and trials: submit, stop, delete. Each is one transaction."""

import contextlib
from typing import Any

from api.conductor.closing import close
from api.conductor.retention import Retention
from api.hub import Hub
from api.plans import Plans, stored
from storage import attempts, checkpoints, events, orders, studies, trials, workers
from storage.database import Database
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.errors import Fault, InvalidInput, InvalidTransition, NameTaken
from tuner.study.catalogue import BUILT_IN_WORKLOADS, EXTERNAL, load_catalogue
from tuner.study.check import parse_study
from tuner.study.spec import StudySpec
from tuner.study.states import TERMINAL, Order, OrderedBy, StudyState, TrialState
from tuner.wire.workload_info import WorkloadInfo


class Commands:
    """Each method is one command, in one transaction. Rows are locked in one order: trials before their study."""

    def __init__(self, database: Database, plans: Plans, hub: Hub, retention: Retention) -> None:
        self._database = database
        self._plans = plans
        self._hub = hub
        self._retention = retention

    def submit(self, document: dict[str, Any], *, idempotency_key: str | None) -> StudyRecord:
        """Validate and start a study. The same idempotency key gives the study of the first request.

        Raises:
            InvalidInput: every fault of the document.
            NameTaken: the name is in use, or the key was used with another document.
        """
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= 200:
            raise InvalidInput([Fault("Idempotency-Key", "has 1 to 200 characters")])
        with self._database.read() as session:
            told = workers.workloads(session)
        signatures = {name: WorkloadInfo.model_validate(workload).signature() for name, workload in told.items()}
        # All that depends on the document alone is worked out before others have to wait for the write transaction.
        spec = parse_study(document, load_catalogue(), {*BUILT_IN_WORKLOADS, EXTERNAL, *signatures}, signatures)
        full, groups = spec.model_dump(mode="json"), spec.groups()
        with self._database.write() as session:
            now = self._database.now(session)
            if idempotency_key is not None:
                earlier = studies.find_by_idempotency_key(session, idempotency_key=idempotency_key)
                if earlier is not None and earlier.document != full:
                    raise NameTaken(f"Idempotency-Key {idempotency_key!r} was used with another study document")
                if earlier is not None:
                    return earlier
            study = studies.create(
                session,
                name=spec.name,
                title=spec.title,
                document=full,
                batch_groups=stored(groups),
                priority=spec.priority,
                run_cap=spec.run_cap,
                parallel=spec.in_flight(),
                idempotency_key=idempotency_key,
                now=now,
            )
            changes = [Change(study.id, "study.running")]
            if left_out := spec.batch_sizes_left_out():
                changes.append(Change(study.id, "study.note", None, {"message": _left_out(left_out, spec)}))
            events.append(session, changes=changes, now=now)
        self._plans.keep(study.id, spec, groups)
        self._hub.ring(study.id)
        return study

    def stop(self, key: str) -> StudyRecord:
        """Stop a study: queued trials are cancelled, running ones are told to end. Stopping twice is no error."""
        return self._stop(key, "study stopped")

    def _stop(self, key: str, why: str) -> StudyRecord:
        with self._database.write() as session:
            now = self._database.now(session)
            study = studies.get(session, key)
            if study.state == StudyState.STOPPED:
                return study
            changes = close(
                session, study=study, state=StudyState.STOPPED, reason="stopped by a user", why=why, now=now
            )
            events.append(session, changes=changes, now=now)
            stopped = studies.get(session, study.id)
        self._hub.ring(study.id)
        return stopped

    def delete(self, key: str) -> int:
        """Delete a study with all that belongs to it, and return its id; workers are told to stop its trials.

        It is stopped first, so that no trial of it is leased between the locks that deleting it takes.
        """
        with contextlib.suppress(InvalidTransition):  # it has ended
            self._stop(key, "study deleted")
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

    def stop_trial(self, key: str, number: int) -> TrialRecord:
        """Cancel a queued trial at once, or tell a running one to end.

        Raises:
            InvalidTransition: it has ended already.
        """
        why = "stopped by a user"
        with self._database.write() as session:
            now = self._database.now(session)
            study = studies.get(session, key)
            trial = trials.get(session, study_id=study.id, number=number)
            if trial.state in TERMINAL:
                raise InvalidTransition(
                    f"trial {number} is {trial.state} already; only a queued or running one can stop"
                )
            changes = []
            by = OrderedBy.USER
            if orders.cancel_waiting(session, study_id=study.id, why=why, by=by, now=now, number=number):
                changes.append(Change(study.id, f"trial.{TrialState.CANCELLED}", number, {"reason": why}))
            elif orders.give(session, study_id=study.id, order=Order.STOP, why=why, by=by, number=number):
                changes.append(Change(study.id, "trial.stopping", number, {"reason": why}))
            events.append(session, changes=changes, now=now)
            trial = trials.get(session, study_id=study.id, number=number)
        self._hub.ring(study.id)
        return trial


def _left_out(sizes: list[int], spec: StudySpec) -> str:
    named = ", ".join(map(str, sizes))
    return f"not tried: batch size {named}, above the budget of {spec.budget.examples_per_trial} examples per trial"
