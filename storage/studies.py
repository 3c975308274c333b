"""Queries on studies. A study's counters change only through guarded updates, so that no race passes `run_cap`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage import tables as t
from storage import usage
from tuner.errors import NameTaken, NotFound
from tuner.study.states import Origin, StudyState, TrialState, check_study

ENDED = frozenset({StudyState.COMPLETED, StudyState.STOPPED, StudyState.FAILED})


@dataclass(frozen=True)
class StudyRecord:
    """A study as stored."""

    id: int
    name: str
    title: str
    state: StudyState
    reason: str | None
    document: dict[str, Any]
    edition: int
    batch_groups: list[dict[str, Any]]
    priority: float
    served: float
    run_cap: int
    parallel: int | None
    program: dict[str, Any] | None
    trials_created: int
    runs: int
    revision: int
    idempotency_key: str | None
    submitted: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reopened_at: datetime | None


def record(row: t.Study) -> StudyRecord:
    """Return a row as a value."""
    fields = {name: getattr(row, name) for name in StudyRecord.__dataclass_fields__}
    return StudyRecord(**{**fields, "state": StudyState(row.state)})


def create(
    session: Session,
    *,
    name: str,
    title: str,
    document: dict[str, Any],
    run_cap: int,
    parallel: int | None,
    idempotency_key: str | None,
    now: datetime,
    batch_groups: Sequence[Mapping[str, Any]] = (),
    priority: float = 1.0,
    submitted: str | None = None,
    webhook: str | None = None,
) -> StudyRecord:
    """Store a new, running study.

    Raises:
        NameTaken: another study has the name.
    """
    row = t.Study(
        name=name, title=title, state=StudyState.RUNNING, document=document, batch_groups=list(batch_groups),
        priority=priority, served=0.0, run_cap=run_cap, parallel=parallel, idempotency_key=idempotency_key,
        submitted=submitted, webhook=webhook, created_at=now, trials_created=0, runs=0, revision=0, edition=0,
    )  # fmt: skip
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise NameTaken(f"a study named {name!r} exists already; delete it or choose another name") from error
    return record(row)


def get(session: Session, key: str | int) -> StudyRecord:
    """Find a study by its name, or by its id when the key is all digits.

    Raises:
        NotFound: no study has it.
    """
    row = session.scalars(select(t.Study).where(_is(key))).one_or_none()
    if row is None:
        raise NotFound(f"no study {str(key)!r}")
    return record(row)


class Place(NamedTuple):
    """Which study it is, and how far it is: what tells whether something read earlier is still true."""

    id: int
    name: str
    state: StudyState
    revision: int

    @property
    def ended(self) -> bool:
        """Whether nothing more is trained."""
        return self.state in ENDED


PLACE = (t.Study.id, t.Study.name, t.Study.state, t.Study.revision)


def place(session: Session, key: str | int) -> Place:
    """Find a study as `get` does, without its document.

    Raises:
        NotFound: no study has this name or id.
    """
    row = session.execute(select(*PLACE).where(_is(key))).one_or_none()
    if row is None:
        raise NotFound(f"no study {str(key)!r}")
    return _place(row)


def places(
    session: Session, *, state: StudyState | None = None, before_id: int | None = None, limit: int = 50
) -> list[Place]:
    """List studies, newest first, up to `limit`, continuing below `before_id`."""
    query = select(*PLACE).order_by(t.Study.id.desc()).limit(limit)
    if state is not None:
        query = query.where(t.Study.state == state)
    if before_id is not None:
        query = query.where(t.Study.id < before_id)
    return [_place(row) for row in session.execute(query)]


def _place(row: Sequence[Any]) -> Place:
    return Place(row[0], row[1], StudyState(row[2]), row[3])


def _is(key: str | int) -> ColumnElement[bool]:
    by_id = isinstance(key, int) or (key.isdecimal() and key.isascii() and len(key) < 19)
    return t.Study.id == int(key) if by_id else t.Study.name == key


def by_ids(session: Session, *, ids: Iterable[int]) -> dict[int, StudyRecord]:
    """Find studies by id."""
    return {row.id: record(row) for row in session.scalars(select(t.Study).where(t.Study.id.in_(list(ids))))}


def find_by_idempotency_key(session: Session, *, idempotency_key: str) -> StudyRecord | None:
    """Find the study that an earlier request with this key created."""
    row = session.scalars(select(t.Study).where(t.Study.idempotency_key == idempotency_key)).one_or_none()
    return None if row is None else record(row)


def running(session: Session, *, workloads: Collection[str]) -> list[StudyRecord]:
    """List the running studies of these workloads, the oldest first."""
    workload = t.Study.document["workload"]["name"].as_string()
    query = select(t.Study).where(t.Study.state == StudyState.RUNNING, workload.in_(list(workloads)))
    rows = session.scalars(query.order_by(t.Study.id), execution_options={"populate_existing": True})
    return [record(row) for row in rows]


def ids_with_work(session: Session) -> list[int]:
    """List the studies that need a conductor: running ones, and ended ones with trials still on workers."""
    live = select(t.Trial.study_id).where(t.Trial.state.in_(("queued", "running"))).distinct()
    query = select(t.Study.id).where((t.Study.state == StudyState.RUNNING) | t.Study.id.in_(live)).order_by(t.Study.id)
    return list(session.scalars(query))


def count_by_state(session: Session) -> dict[str, int]:
    """Count all studies."""
    query = select(t.Study.state, func.count()).group_by(t.Study.state)
    return {state: count for state, count in session.execute(query)}


def count_queued(session: Session) -> int:
    """Count the trials of all studies that wait for a worker."""
    return session.execute(select(func.count()).where(t.Trial.state == TrialState.QUEUED)).scalar_one()


def live_or_ended_since(session: Session, *, since: datetime) -> dict[int, str]:
    """Return the names, by id, of the studies that have not ended, or ended after a time."""
    query = select(t.Study.id, t.Study.name).where(t.Study.finished_at.is_(None) | (t.Study.finished_at >= since))
    return {study_id: name for study_id, name in session.execute(query.order_by(t.Study.id))}


def set_state(
    session: Session, *, study_id: int, old: StudyState, new: StudyState, reason: str | None, now: datetime
) -> None:
    """Move a study from `old` to `new`; a lost race raises `InvalidTransition`."""
    check_study(old, new)
    ended = new in ENDED
    moved = session.execute(
        update(t.Study)
        .where(t.Study.id == study_id, t.Study.state == old)
        .values(state=new, reason=reason, finished_at=now if ended else None)
        .returning(t.Study.id)
    ).one_or_none()
    if moved is None:
        check_study(get(session, study_id).state, new)
        raise NotFound(f"no study {study_id}")
    if new != StudyState.RUNNING:
        usage.stop_clock(session, study_id=study_id, now=now)


def reopen(session: Session, *, study_id: int, old: StudyState, now: datetime) -> None:
    """Let a study go on of which ended trials, or the study itself, had ended; a paused one stays paused.

    Raises:
        InvalidTransition: it is not in the state `old` any more.
    """
    new = StudyState.RUNNING if old in ENDED else old
    if new != old:
        set_state(session, study_id=study_id, old=old, new=new, reason=None, now=now)
    changed = {"edition": t.Study.edition + 1, "reopened_at": now}
    session.execute(update(t.Study).where(t.Study.id == study_id).values(**changed))


def rewrite(
    session: Session, *, study_id: int, document: dict[str, Any], batch_groups: Sequence[Mapping[str, Any]], **row: Any
) -> bool:
    """Replace a study's document and its groups, and those columns of its row that say what it says.

    Returns:
        False if `run_cap` is below the runs that there are.
    """
    query = update(t.Study).where(t.Study.id == study_id)
    if "run_cap" in row:
        query = query.where(t.Study.runs <= row["run_cap"])
    new = {"document": document, "batch_groups": list(batch_groups), "edition": t.Study.edition + 1, **row}
    return session.execute(query.values(**new).returning(t.Study.id)).one_or_none() is not None


def note_leases(session: Session, *, served: Mapping[int, float], now: datetime) -> None:
    """Store what studies have been served, and when the first trial of each was leased."""
    if not served:
        return
    statement = (
        update(t.Study.__table__)  # type: ignore[arg-type]
        .where(t.Study.id == bindparam("key"))
        .values(
            served=bindparam("sum"),
            started_at=func.coalesce(t.Study.started_at, now),
            running_since=func.coalesce(t.Study.running_since, now),
        )
    )
    session.connection().execute(statement, [{"key": key, "sum": value} for key, value in sorted(served.items())])


def reserve_number(session: Session, *, study_id: int, count: int = 1, origin: Origin = Origin.PROPOSED) -> int | None:
    """Take the next `count` trial numbers of a running study and return the first: exact under any concurrency.

    A paused study takes enqueued ones, too. None when the study does not run, or when so many proposed or enqueued
    trials would pass its cap.
    """
    runs = count if origin.is_run else 0
    states = [StudyState.RUNNING] + [StudyState.PAUSED] * (origin is Origin.ENQUEUED)
    after = session.execute(
        update(t.Study)
        .where(
            t.Study.id == study_id,
            t.Study.state.in_(states),
            t.Study.runs + runs <= t.Study.run_cap,
        )
        .values(trials_created=t.Study.trials_created + count, runs=t.Study.runs + runs)
        .returning(t.Study.trials_created)
    ).scalar_one_or_none()
    return None if after is None else after - count


CREATING_OR_ENDING = 0x7475
"""The kind of the advisory locks on PostgreSQL under which a study's trials are created, or all of them ended."""


def hold(session: Session, *, study_id: int) -> None:
    """Let nobody else create trials of a study, end it, change it or delete it before this transaction ends.

    Call it before anything is locked: who creates trials locks their study first, who ends a study its trials.
    """
    if is_shared(session):
        session.execute(select(func.pg_advisory_xact_lock(CREATING_OR_ENDING, study_id % 2**31)))


def is_shared(session: Session) -> bool:
    """Whether several transactions write at once; SQLite has one writer at a time."""
    return session.get_bind().dialect.name == "postgresql"


def delete_study(session: Session, *, study_id: int) -> None:
    """Delete a study with its trials, reports and events."""
    session.execute(delete(t.Study).where(t.Study.id == study_id))


@dataclass(frozen=True)
class Progress:
    """How far the trials of a study are."""

    counts: dict[str, int]
    examples: int
    slot_utilisation: float | None = None
    """The share of the slots computed for its trials, tick by tick, that held one; None before any."""


def progress(session: Session, *, study_ids: Iterable[int]) -> dict[int, Progress]:
    """Count trials by state, examples done and slot-ticks, per study."""
    study_ids = list(study_ids)
    rows = session.execute(
        select(t.Trial.study_id, t.Trial.state, func.count(), func.sum(t.Trial.examples))
        .where(t.Trial.study_id.in_(study_ids))
        .group_by(t.Trial.study_id, t.Trial.state)
    )
    found: dict[int, Progress] = {}
    for study_id, state, count, examples in rows:
        before = found.get(study_id, Progress({}, 0))
        found[study_id] = Progress({**before.counts, state: count}, before.examples + int(examples or 0))
    used = session.execute(
        select(t.Trial.study_id, func.sum(t.Attempt.ticks) / func.sum(t.Attempt.computed))
        .join(t.Attempt, t.Attempt.trial_id == t.Trial.id)
        .where(t.Trial.study_id.in_(study_ids), t.Attempt.computed > 0)
        .group_by(t.Trial.study_id)
    )
    for study_id, share in used:
        found[study_id] = replace(found[study_id], slot_utilisation=float(share))
    return found
