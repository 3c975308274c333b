"""The leases that a transaction works on: loaded once, changed in memory, saved in one statement per table.

On PostgreSQL loading with `lock` locks the rows of attempts and trials. So what is decided here cannot be outrun by an
expiry or by a user; the guards of the storage functions check it once more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.orm import Session

from api.plans import Plan, Plans
from storage import attempts, studies, trials
from storage.attempts import AttemptRecord
from storage.studies import StudyRecord
from storage.trials import TrialRecord

Key = tuple[int, int]
"""(trial id, attempt)."""


@dataclass
class Lease:
    """A live attempt with its trial, study and plan. `attempt` and `trial` are replaced as the transaction goes on."""

    attempt: AttemptRecord
    trial: TrialRecord
    study: StudyRecord
    plan: Plan
    stored: tuple[AttemptRecord, TrialRecord] = field(init=False, repr=False)
    """As the database has them."""

    def __post_init__(self) -> None:
        self.stored = self.attempt, self.trial

    @property
    def key(self) -> Key:
        """(trial id, attempt)."""
        return self.attempt.trial_id, self.attempt.attempt

    @property
    def live(self) -> bool:
        """Whether the attempt has not ended, in this transaction either."""
        return self.attempt.outcome is None

    def advance(self, step: int, examples: int) -> None:
        """Note progress; it never goes back."""
        if step > self.trial.step:
            self.trial = replace(self.trial, step=step, examples=examples)

    def end(self, outcome: str, *, now: datetime, error: str | None = None) -> None:
        """End the attempt. What becomes of its trial is decided by `endings`."""
        self.attempt = replace(self.attempt, outcome=outcome, ended_at=now, error=error)


def joined(session: Session, plans: Plans, pairs: Sequence[tuple[AttemptRecord, TrialRecord]]) -> dict[Key, Lease]:
    """Add the studies to attempts and their trials; return leases by key."""
    found = studies.by_ids(session, ids={trial.study_id for _, trial in pairs}) if pairs else {}
    leases = [Lease(attempt, trial, found[trial.study_id], plans.of(found[trial.study_id])) for attempt, trial in pairs]
    return {lease.key: lease for lease in leases}


def save(session: Session, leases: Iterable[Lease]) -> None:
    """Store what changed. Raises `Conflict` when somebody else ended one of the attempts or trials meanwhile."""
    leases = list(leases)
    changed = [lease.trial for lease in leases if lease.trial != lease.stored[1]]
    trials.save(session, trials=changed)
    attempts.save(session, attempts=[lease.attempt for lease in leases if lease.attempt != lease.stored[0]])
    for lease in leases:
        lease.stored = lease.attempt, lease.trial
