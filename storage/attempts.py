"""Queries on attempts. While an attempt's outcome is null it is a lease: its worker may report on it and finish it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.hyperparameter import Scalar
from tuner.study.program import fingerprint


@dataclass(frozen=True)
class AttemptRecord:
    """One stay of a trial on a worker."""

    trial_id: int
    attempt: int
    worker_id: int
    device: str
    lease_expires: datetime
    outcome: str | None
    resumed_from: int
    program: dict[str, Any] | None
    fingerprint: str | None
    error: str | None
    started_at: datetime
    ended_at: datetime | None


def _record(row: t.Attempt) -> AttemptRecord:
    return AttemptRecord(**{name: getattr(row, name) for name in AttemptRecord.__dataclass_fields__})


def begin(
    session: Session,
    *,
    trial_id: int,
    attempt: int,
    worker_id: int,
    device: str,
    lease_expires: datetime,
    now: datetime,
    resumed_from: int = 0,
) -> None:
    """Grant a lease on a trial that goes on from a step; the schema refuses a second live one."""
    session.add(
        t.Attempt(
            trial_id=trial_id,
            attempt=attempt,
            worker_id=worker_id,
            device=device,
            lease_expires=lease_expires,
            resumed_from=resumed_from,
            started_at=now,
        )
    )
    session.flush()


def live_of_worker(session: Session, *, worker_id: int) -> list[AttemptRecord]:
    """List a worker's leases."""
    query = select(t.Attempt).where(t.Attempt.worker_id == worker_id, t.Attempt.outcome.is_(None))
    return [_record(row) for row in session.scalars(query.order_by(t.Attempt.trial_id))]


def of_trial(session: Session, *, trial_id: int) -> list[AttemptRecord]:
    """List a trial's attempts in order."""
    query = select(t.Attempt).where(t.Attempt.trial_id == trial_id).order_by(t.Attempt.attempt)
    return [_record(row) for row in session.scalars(query)]


def latest(session: Session, *, trial_ids: Sequence[int]) -> dict[int, AttemptRecord]:
    """Find the current attempt of each trial that has one."""
    query = (
        select(t.Attempt)
        .join(t.Trial, (t.Trial.id == t.Attempt.trial_id) & (t.Trial.attempt == t.Attempt.attempt))
        .where(t.Trial.id.in_(trial_ids))
    )
    return {row.trial_id: _record(row) for row in session.scalars(query)}


def renew(session: Session, *, worker_id: int, lease_expires: datetime) -> None:
    """Extend every lease of a worker."""
    session.execute(
        update(t.Attempt)
        .where(t.Attempt.worker_id == worker_id, t.Attempt.outcome.is_(None))
        .values(lease_expires=lease_expires)
    )


def end(
    session: Session,
    *,
    trial_id: int,
    attempt: int,
    outcome: str,
    now: datetime,
    error: str | None = None,
) -> bool:
    """End a live attempt; False when it had ended before."""
    moved = session.execute(
        update(t.Attempt)
        .where(t.Attempt.trial_id == trial_id, t.Attempt.attempt == attempt, t.Attempt.outcome.is_(None))
        .values(outcome=outcome, ended_at=now, error=error)
        .returning(t.Attempt.attempt)
    ).one_or_none()
    return moved is not None


def note_program(session: Session, *, trial_id: int, attempt: int, program: Mapping[str, Scalar | None]) -> None:
    """Store what a live attempt runs, with its fingerprint. It never changes: a second word is not heard."""
    session.execute(
        update(t.Attempt)
        .where(
            t.Attempt.trial_id == trial_id,
            t.Attempt.attempt == attempt,
            t.Attempt.outcome.is_(None),
            t.Attempt.fingerprint.is_(None),
        )
        .values(program=dict(program), fingerprint=fingerprint(program))
    )


def restart(session: Session, *, trial_id: int, attempt: int) -> bool:
    """Note that a live attempt began from zero; False when it was known to, or has ended."""
    moved = session.execute(
        update(t.Attempt)
        .where(
            t.Attempt.trial_id == trial_id,
            t.Attempt.attempt == attempt,
            t.Attempt.outcome.is_(None),
            t.Attempt.resumed_from > 0,
        )
        .values(resumed_from=0)
        .returning(t.Attempt.attempt)
    ).one_or_none()
    return moved is not None


def expired(session: Session, *, study_ids: Iterable[int], now: datetime) -> list[AttemptRecord]:
    """List leases that ran out, in these studies."""
    query = (
        select(t.Attempt)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .where(t.Trial.study_id.in_(list(study_ids)), t.Attempt.outcome.is_(None), t.Attempt.lease_expires < now)
    )
    return [_record(row) for row in session.scalars(query)]


def held_counts(session: Session) -> dict[int, int]:
    """Count live leases per worker."""
    query = select(t.Attempt.worker_id, func.count()).where(t.Attempt.outcome.is_(None)).group_by(t.Attempt.worker_id)
    return {worker_id: count for worker_id, count in session.execute(query)}
