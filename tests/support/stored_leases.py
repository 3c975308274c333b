"""Leases straight in the database, as the sync protocol grants and ends them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from storage import attempts, trials
from storage.attempts import AttemptRecord
from tuner.study.program import fingerprint
from tuner.study.states import TrialState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def grant(session: Session, trial_id: int, worker: int, *, device: str = "cpu", resumed_from: int = 0) -> None:
    """Lease a queued trial."""
    trial = trials.by_ids(session, ids=[trial_id])[trial_id]
    begun = replace(trial, state=TrialState.RUNNING, attempt=trial.attempt + 1, started_at=NOW)
    trials.start(session, trials=[begun])
    new = AttemptRecord(trial_id, begun.attempt, worker, device, NOW, NOW, "token", resumed_from)
    attempts.begin(session, attempts=[new])


def live(session: Session, trial_id: int) -> AttemptRecord:
    """Return a trial's live attempt."""
    return attempts.of_trial(session, trial_id=trial_id)[-1]


def note(session: Session, trial_id: int, program: dict[str, Any]) -> None:
    """Store what the live attempt runs."""
    told = replace(live(session, trial_id), program=program, fingerprint=fingerprint(program))
    attempts.save(session, attempts=[told])


def take_back(session: Session, trial_id: int, outcome: str, error: str | None = None) -> None:
    """End the live attempt and queue its trial again."""
    ended = replace(live(session, trial_id), outcome=outcome, ended_at=NOW, error=error)
    attempts.save(session, attempts=[ended])
    trial = trials.by_ids(session, ids=[trial_id])[trial_id]
    trials.save(session, trials=[replace(trial, state=TrialState.QUEUED)])
