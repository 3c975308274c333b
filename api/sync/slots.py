"""Slots in the sync protocol: what attempts run, how many slot-ticks were used, and what a study could still fill.

A worker counts slot-ticks by itself; to tell an idle slot that nobody wanted from one that was left empty, it is told
what each study that it has trials of could put there.
"""

from sqlalchemy.orm import Session

from api.plans import Plans
from storage import attempts, programs, slot_use, studies, trials
from storage.attempts import AttemptRecord
from storage.events import Change
from tuner.study.program import fingerprint
from tuner.study.states import StudyState
from tuner.wire.sync import Demand, SyncRequest


def apply_starts(session: Session, *, plans: Plans, worker_id: int, request: SyncRequest) -> list[Change]:
    """Store the programs of attempts that began; the first of a reproducible study pins it."""
    changes: list[Change] = []
    live = {(a.trial_id, a.attempt) for a in attempts.live_of_worker(session, worker_id=worker_id)}
    found = trials.by_ids(session, ids={word.trial for word in request.started})
    for word in request.started:
        if (word.trial, word.attempt) not in live:
            continue
        attempts.note_program(session, trial_id=word.trial, attempt=word.attempt, program=word.program)
        study = studies.get(session, found[word.trial].study_id)
        reproducible = plans.of(study).spec.reproducible
        if reproducible and programs.pin(session, study_id=study.id, program=word.program):
            data = {"fingerprint": fingerprint(word.program), "program": dict(word.program)}
            changes.append(Change(study.id, "study.pinned", None, data))
    return changes


def apply_counts(session: Session, *, worker_id: int, request: SyncRequest) -> None:
    """Store the worker's counts of slot-ticks."""
    for count in request.slots:
        offered = max(count.busy, count.offered)
        slot_use.note(
            session, study_id=count.study, worker_id=worker_id, device=count.device, busy=count.busy, offered=offered
        )


def demand(session: Session, *, worker_id: int) -> list[Demand]:
    """Say what the studies with leases of this worker could put on its devices. Call when leases were granted."""
    live = attempts.live_of_worker(session, worker_id=worker_id)
    found = trials.by_ids(session, ids={attempt.trial_id for attempt in live})
    here: dict[tuple[int, str], list[AttemptRecord]] = {}
    for attempt in live:
        here.setdefault((found[attempt.trial_id].study_id, attempt.device), []).append(attempt)
    result = []
    counts = trials.waiting_and_running(session, study_ids={study_id for study_id, _ in here})
    for (study_id, device), held in sorted(here.items(), key=lambda item: item[0]):
        study, (queued, running) = studies.get(session, study_id), counts.get(study_id, (0, 0))
        unborn = study.run_cap - study.trials_created if study.state == StudyState.RUNNING else 0
        more = unborn + queued
        most = max(len(held), study.parallel - (running - len(held)))
        result.append(Demand(study=study_id, device=device, stack=study.stack, most=most, more=more))
    return result
