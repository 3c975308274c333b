"""Queries on attempts. While an attempt's outcome is null it is a lease: its worker may report on it and finish it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import String, func, select, update
from sqlalchemy.orm import Session

from storage import tables as t
from storage import trials
from storage.bulk import insert_all, table_of, update_all
from storage.trials import TrialRecord
from tuner.study.states import TrialState

PART = 500
"""Ids per condition: databases limit how long one may be."""


@dataclass(frozen=True)
class AttemptRecord:
    """One stay of a trial on a worker."""

    trial_id: int
    attempt: int
    worker_id: int
    device: str
    lease_expires: datetime
    started_at: datetime
    token: str
    resumed_from: int = 0
    outcome: str | None = None
    program: dict[str, Any] | None = None
    fingerprint: str | None = None
    error: str | None = None
    ended_at: datetime | None = None
    ticks: int = 0
    computed: float = 0.0


NAMES = tuple(field.name for field in fields(AttemptRecord))
COLUMNS = tuple(table_of(t.Attempt).columns[name] for name in NAMES)
"""What a query selects to make records of, without an entity per row."""


def _record(row: t.Attempt) -> AttemptRecord:
    return AttemptRecord(*_values(row, NAMES))


def _values(row: AttemptRecord | t.Attempt, names: Sequence[str]) -> list[Any]:
    return [getattr(row, name) for name in names]


LEASES = (
    select(*COLUMNS, *trials.COLUMNS)
    .join_from(t.Attempt, t.Trial, t.Trial.id == t.Attempt.trial_id)
    .where(t.Attempt.outcome.is_(None))
    .order_by(t.Attempt.trial_id)
)
"""Put together once: that takes longer than running it."""


def leases(
    session: Session,
    *,
    worker_id: int | None = None,
    study_ids: Collection[int] | None = None,
    expired_at: datetime | None = None,
    lock: bool = False,
) -> list[tuple[AttemptRecord, TrialRecord]]:
    """List live attempts with their trials: of one worker, of some studies, those that ran out before a time.

    With `lock`, on PostgreSQL, nobody else changes them until the end of the transaction.
    """
    query = LEASES
    if worker_id is not None:
        query = query.where(t.Attempt.worker_id == worker_id)
    if study_ids is not None:
        query = query.where(t.Trial.study_id.in_(study_ids))
    if expired_at is not None:
        query = query.where(t.Attempt.lease_expires < expired_at)
    if lock:
        query = query.with_for_update()
    own = len(COLUMNS)
    return [(AttemptRecord(*row[:own]), trials.of_columns(row[own:])) for row in session.execute(query)]


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


def programs(session: Session, *, trial_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what the current attempt of each trial runs, of those where it is known."""
    query = (
        select(t.Attempt.trial_id, t.Attempt.program)
        .join(t.Trial, (t.Trial.id == t.Attempt.trial_id) & (t.Trial.attempt == t.Attempt.attempt))
        .where(t.Trial.id.in_(trial_ids), t.Attempt.program.is_not(None))
    )
    return {trial_id: program for trial_id, program in session.execute(query)}


def slot_ticks(session: Session, *, trial_ids: Sequence[int]) -> tuple[int, float]:
    """Return the slot-ticks of all attempts of some trials: those with the trial in a slot, and those computed."""
    used, computed = 0, 0.0
    for first in range(0, len(trial_ids), PART):
        query = select(func.sum(t.Attempt.ticks), func.sum(t.Attempt.computed)).where(
            t.Attempt.trial_id.in_(trial_ids[first : first + PART]), t.Attempt.computed > 0
        )
        ticks, slots = session.execute(query).one()
        used, computed = used + int(ticks or 0), computed + float(slots or 0.0)
    return used, computed


class Running(NamedTuple):
    """A program, and how many trials it runs at the moment, on how many devices."""

    fingerprint: str
    program: dict[str, Any]
    trials: int
    devices: int


def running(session: Session, *, study_id: int) -> list[Running]:
    """Return what runs a study's trials now, the program of the most trials first."""
    device = t.Attempt.worker_id.cast(String) + "/" + t.Attempt.device
    live = (t.Trial.study_id == study_id, t.Trial.state == TrialState.RUNNING, t.Attempt.outcome.is_(None))
    of_study = select(
        t.Attempt.fingerprint, func.count(), func.count(device.distinct()), func.min(t.Attempt.trial_id)
    ).join(t.Trial, t.Trial.id == t.Attempt.trial_id)
    query = of_study.where(*live, t.Attempt.fingerprint.is_not(None)).group_by(t.Attempt.fingerprint)
    found = sorted(session.execute(query), key=lambda row: (-row[1], row[0]))
    told = programs(session, trial_ids=[row[3] for row in found]) if found else {}
    return [Running(str(name), told.get(trial, {}), count, devices) for name, count, devices, trial in found]


def begin(session: Session, *, attempts: Sequence[AttemptRecord]) -> None:
    """Grant leases; the schema refuses a second live one on a trial."""
    insert_all(session, t.Attempt, NAMES, [_values(attempt, NAMES) for attempt in attempts])


def renew(session: Session, *, worker_id: int, lease_expires: datetime) -> None:
    """Extend every lease of a worker."""
    session.execute(
        update(t.Attempt)
        .where(t.Attempt.worker_id == worker_id, t.Attempt.outcome.is_(None))
        .values(lease_expires=lease_expires)
    )


def shorten(session: Session, *, latest: datetime) -> bool:
    """Let no lease expire after a time; say whether one did."""
    found = session.execute(
        update(t.Attempt)
        .where(t.Attempt.outcome.is_(None), t.Attempt.lease_expires > latest)
        .values(lease_expires=latest)
        .returning(t.Attempt.trial_id)
    )
    return found.first() is not None


def longest(session: Session) -> datetime | None:
    """Return when the last lease expires, None without leases."""
    return session.execute(select(func.max(t.Attempt.lease_expires)).where(t.Attempt.outcome.is_(None))).scalar()


SAVED = ("resumed_from", "outcome", "program", "fingerprint", "error", "ended_at", "ticks", "computed")
"""What changes during an attempt."""


def save(session: Session, *, attempts: Sequence[AttemptRecord]) -> None:
    """Store what changed in live attempts.

    Raises:
        Conflict: one of them has ended meanwhile.
    """
    names = ("trial_id", "attempt", *SAVED)
    rows = [_values(attempt, names) for attempt in attempts]
    update_all(session, t.Attempt, names, rows, t.Attempt.outcome.is_(None))


def holders(session: Session) -> list[tuple[tuple[int, str], int, float]]:
    """Name each device (its worker and name) that has leases, with a study that it has them on and its priority."""
    query = (
        select(t.Attempt.worker_id, t.Attempt.device, t.Study.id, t.Study.priority)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .join(t.Study, t.Study.id == t.Trial.study_id)
        .where(t.Attempt.outcome.is_(None))
        .distinct()
    )
    return [((worker, device), study, priority) for worker, device, study, priority in session.execute(query)]


def held_counts(session: Session) -> dict[int, int]:
    """Count live leases per worker."""
    query = select(t.Attempt.worker_id, func.count()).where(t.Attempt.outcome.is_(None)).group_by(t.Attempt.worker_id)
    return {worker_id: count for worker_id, count in session.execute(query)}
