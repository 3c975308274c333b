"""Queries on worker sessions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, exists, func, select, text, update
from sqlalchemy.orm import Session

from storage import tables as t
from storage.bulk import table_of, update_found
from tuner.errors import NotFound
from tuner.study.states import StudyState, TrialState


@dataclass(frozen=True)
class WorkerRecord:
    """A worker session as stored."""

    id: int
    session: str
    name: str
    devices: list[dict[str, Any]]
    workloads: list[dict[str, Any]]
    version: str
    study_id: int | None
    """The only study whose trials it takes: a session of a user's own loop."""
    seq: int
    first_seen: datetime
    last_seen: datetime
    draining: bool = False
    """It is told to hand everything back and leave."""
    quarantined_until: datetime | None = None
    quarantine_why: str | None = None

    def takes_trials(self, now: datetime) -> bool:
        """Whether it gets new trials at a time."""
        return not self.draining and (self.quarantined_until is None or self.quarantined_until <= now)


COLUMNS = tuple(table_of(t.Worker).columns[name] for name in WorkerRecord.__dataclass_fields__)


def _record(row: t.Worker) -> WorkerRecord:
    return WorkerRecord(**{name: getattr(row, name) for name in WorkerRecord.__dataclass_fields__})


def register(
    session: Session,
    *,
    worker_session: str,
    name: str,
    devices: list[dict[str, Any]],
    workloads: list[dict[str, Any]],
    version: str,
    now: datetime,
    study_id: int | None = None,
) -> int:
    """Store a session and return its id; a session that registers again keeps its id."""
    row = session.scalars(select(t.Worker).where(t.Worker.session == worker_session)).one_or_none()
    if row is None:
        row = t.Worker(session=worker_session, first_seen=now, seq=-1)
        session.add(row)
    row.name, row.devices, row.workloads, row.version, row.last_seen = name, devices, workloads, version, now
    row.study_id = study_id
    session.flush()
    return row.id


def get(session: Session, *, worker_id: int, worker_session: str) -> WorkerRecord:
    """Find a worker by id and session.

    Raises:
        NotFound: no such worker session exists; it must register again.
    """
    row = session.get(t.Worker, worker_id)
    if row is None or row.session != worker_session:
        raise NotFound(f"no worker {worker_id} with this session; register again")
    return _record(row)


class Glance(NamedTuple):
    """A worker, and whether there is anything to say to it: live leases of its own, queued trials of anybody.

    `study`: the state of the only study whose trials it takes; None if it takes those of all.
    """

    worker: WorkerRecord
    leased: bool
    queued: bool
    study: StudyState | None


LEASED = exists().where(t.Attempt.worker_id == t.Worker.id, t.Attempt.outcome.is_(None))
QUEUED = exists().where(
    t.Study.state == StudyState.RUNNING,
    exists().where(t.Trial.study_id == t.Study.id, t.Trial.state == TrialState.QUEUED),
)
BOUND = select(t.Study.state).where(t.Study.id == t.Worker.study_id).scalar_subquery()
GLANCE = select(*COLUMNS, LEASED, QUEUED, BOUND).where(t.Worker.id == bindparam("worker"))
"""Put together once: that takes longer than running it."""


def glance(session: Session, *, worker_id: int, worker_session: str) -> Glance:
    """Find a worker and what there may be for it, in one statement that costs the same however many trials there are.

    Raises:
        NotFound: no such worker session exists, and it must register again; or its study was deleted.
    """
    row = session.execute(GLANCE, {"worker": worker_id}).one_or_none()
    found = None if row is None else WorkerRecord(*row[:-3])
    if row is None or found is None or found.session != worker_session:
        raise NotFound(f"no worker {worker_id} with this session; register again")
    if found.study_id is not None and row[-1] is None:
        raise NotFound(f"the study of worker {worker_id} was deleted")
    return Glance(found, row[-3], row[-2], None if row[-1] is None else StudyState(row[-1]))


def here(session: Session, *, last: Mapping[int, int], now: datetime) -> None:
    """Record that workers were seen until now, with the number of the last request of each, -1 for none."""
    rows = [(worker_id, seq, now) for worker_id, seq in sorted(last.items())]
    update_found(session, t.Worker, ("id", "seq", "last_seen"), rows, text("workers.seq <= given.column2"))


def seen(
    session: Session, *, worker_id: int, worker_session: str, seq: int, now: datetime
) -> tuple[WorkerRecord, bool]:
    """Record a sync, and return the worker; False if this or a later sync was seen (then only `last_seen` changes).

    Raises:
        NotFound: no such worker session exists; it must register again.
    """
    own = update(t.Worker).where(t.Worker.id == worker_id, t.Worker.session == worker_session)
    newer = session.scalars(
        own.where(t.Worker.seq < seq).values(seq=seq, last_seen=now).returning(t.Worker)
    ).one_or_none()
    if newer is not None:
        return _record(newer), True
    older = session.scalars(own.values(last_seen=now).returning(t.Worker)).one_or_none()
    if older is None:
        raise NotFound(f"no worker {worker_id} with this session; register again")
    return _record(older), False


def drain(session: Session, *, worker_id: int) -> WorkerRecord:
    """Tell a worker to hand everything back and leave.

    Raises:
        NotFound: there is no such worker.
    """
    return _changed(session, worker_id, draining=True)


def quarantine(session: Session, *, worker_id: int, until: datetime | None, why: str | None) -> WorkerRecord:
    """Give a worker no trials before a time; None ends that.

    Raises:
        NotFound: there is no such worker.
    """
    return _changed(session, worker_id, quarantined_until=until, quarantine_why=why)


def _changed(session: Session, worker_id: int, **values: Any) -> WorkerRecord:
    row = session.scalars(
        update(t.Worker).where(t.Worker.id == worker_id).values(**values).returning(t.Worker)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no worker {worker_id}")
    return _record(row)


def last_endings(session: Session, *, worker_id: int, limit: int) -> list[tuple[int, str]]:
    """List trial and outcome of the attempts that ended last on a worker, the latest first."""
    ended = t.Attempt.outcome.is_not(None)
    query = select(t.Attempt.trial_id, t.Attempt.outcome).where(t.Attempt.worker_id == worker_id, ended)
    rows = session.execute(query.order_by(t.Attempt.ended_at.desc(), t.Attempt.trial_id.desc()).limit(limit))
    return [(trial_id, str(outcome)) for trial_id, outcome in rows]


def by_ids(session: Session, *, ids: set[int]) -> dict[int, WorkerRecord]:
    """Find workers by id."""
    return {row.id: _record(row) for row in session.scalars(select(t.Worker).where(t.Worker.id.in_(ids)))}


def recent(session: Session, *, limit: int = 200) -> list[WorkerRecord]:
    """List worker sessions, most recently seen first."""
    return [_record(row) for row in session.scalars(select(t.Worker).order_by(t.Worker.last_seen.desc()).limit(limit))]


def prune(session: Session, *, before: datetime) -> None:
    """Delete sessions last seen before a time that no attempt refers to."""
    used = exists().where(t.Attempt.worker_id == t.Worker.id)
    session.execute(delete(t.Worker).where(t.Worker.last_seen < before, ~used))


def count_seen_since(session: Session, *, since: datetime) -> int:
    """Count the worker sessions that synced after a given time."""
    return session.execute(select(func.count()).where(t.Worker.last_seen >= since)).scalar_one()


def workload_names(session: Session) -> dict[str, str]:
    """Return every workload that any worker ever registered, with its description."""
    return {name: told.get("description", "") for name, told in workloads(session).items()}


def workloads(session: Session) -> dict[str, dict[str, Any]]:
    """Return every workload that any worker ever registered, by name, as the latest told of it."""
    found: dict[str, dict[str, Any]] = {}
    for told in session.scalars(select(t.Worker.workloads).order_by(t.Worker.id)):
        found.update({workload["name"]: workload for workload in told})
    return found
