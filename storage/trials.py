"""Queries on trials. State changes are guarded by the state that they start from: the first terminal one wins."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, String, column, exists, func, literal_column, select, true, values
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage import tables as t
from storage.bulk import insert_all, table_of, update_all
from tuner.errors import Conflict, NotFound
from tuner.study.states import TERMINAL, Order, OrderedBy, Origin, StudyState, TrialState


@dataclass(frozen=True)
class TrialRecord:
    """A trial as stored."""

    id: int
    study_id: int
    number: int
    family: str
    family_index: int | None
    origin: Origin
    parent: int | None
    params: dict[str, Any]
    stack: str
    seed: int
    replicate: int
    state: TrialState
    value: float | None
    reason: str | None
    order: Order | None
    order_why: str | None
    ordered_by: OrderedBy | None
    attempt: int
    charged: int
    idempotency_key: str | None
    step: int
    examples: int
    total_steps: int
    total_examples: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    def at_step(self, step: int) -> "TrialRecord":
        """Return the trial as it is after so many steps."""
        return replace(self, step=step, examples=step * int(self.params["batch_size"]) if step else 0)


Queue = tuple[int, str]
"""A study's id, and the key of the stack that its waiting trials will share."""


QUEUED: ColumnElement[str] = literal_column("'queued'")
ENQUEUED: ColumnElement[str] = literal_column("'enqueued'")
"""Written out, as in the indexes of the queues: neither database uses those for a parameter."""


def record(row: t.Trial) -> TrialRecord:
    """Return a row as a value."""
    return of_columns([getattr(row, name) for name in TrialRecord.__match_args__])


COLUMNS = tuple(table_of(t.Trial).columns[field.name] for field in fields(TrialRecord))
"""What a query selects to make records of, without an entity per row."""
RECORDS = select(*COLUMNS)
NAMES = TrialRecord.__match_args__
STATE, ORIGIN, ORDER, ORDERED_BY = map(NAMES.index, ("state", "origin", "order", "ordered_by"))


def of_columns(values: Sequence[Any]) -> TrialRecord:
    """Return the values of `COLUMNS` as a record."""
    found = list(values)
    found[STATE], found[ORIGIN] = TrialState(found[STATE]), Origin(found[ORIGIN])
    if found[ORDERED_BY] is not None:  # seldom: few trials are told anything
        found[ORDER] = None if found[ORDER] is None else Order(found[ORDER])
        found[ORDERED_BY] = OrderedBy(found[ORDERED_BY])
    return TrialRecord(*found)


@dataclass(frozen=True)
class NewTrial:
    """A new trial's values. A proposal has its index in the family's sequence, a replicate or branch its parent."""

    number: int
    family: str
    params: dict[str, Any]
    seed: int
    state: TrialState
    reason: str | None
    asked_after: int
    total_steps: int
    total_examples: int
    stack: str
    origin: Origin = Origin.ENQUEUED
    family_index: int | None = None
    parent: int | None = None
    idempotency_key: str | None = None


def create(session: Session, *, study_id: int, trial: NewTrial, now: datetime) -> int:
    """Store a trial under the number that `studies.reserve_number` gave; return its id."""
    return create_all(session, study_id=study_id, trials=[trial], now=now)[0]


def create_all(session: Session, *, study_id: int, trials: Sequence[NewTrial], now: datetime) -> list[int]:
    """Store trials under the numbers that `studies.reserve_number` gave; return their ids.

    Raises:
        Conflict: one of them is a proposal that was made before, or has no such parent.
    """
    given = [field.name for field in fields(NewTrial)]
    begun = {
        "study_id": study_id,
        "created_at": now,
        "replicate": 0,
        "attempt": 0,
        "charged": 0,
        "step": 0,
        "examples": 0,
    }
    rows = [
        (*(getattr(trial, name) for name in given), *begun.values(), now if trial.state in TERMINAL else None)
        for trial in trials
    ]
    try:
        insert_all(session, t.Trial, [*given, *begun, "finished_at"], rows)
    except IntegrityError as error:
        raise Conflict(f"trials {trials[0].number} to {trials[-1].number} cannot be stored: {error.orig}") from error
    numbers = [trial.number for trial in trials]
    query = select(t.Trial.number, t.Trial.id).where(
        t.Trial.study_id == study_id, t.Trial.number.between(min(numbers), max(numbers))
    )
    ids = {number: trial_id for number, trial_id in session.execute(query)}
    return [ids[number] for number in numbers]


def next_indexes(session: Session, *, study_id: int, families: Sequence[str]) -> list[int]:
    """Return the index of each family's next proposal."""
    last = [
        select(func.max(t.Trial.family_index))
        .where(t.Trial.study_id == study_id, t.Trial.family == family)
        .scalar_subquery()
        for family in families
    ]
    return [0 if index is None else index + 1 for index in session.execute(select(*last)).one()]


def get(session: Session, *, study_id: int, number: int) -> TrialRecord:
    """Find a trial by its number.

    Raises:
        NotFound: the study has no such trial.
    """
    row = session.scalars(select(t.Trial).where(t.Trial.study_id == study_id, t.Trial.number == number)).one_or_none()
    if row is None:
        raise NotFound(f"no trial {number} in this study")
    return record(row)


def find_by_idempotency_key(session: Session, *, study_id: int, idempotency_key: str) -> TrialRecord | None:
    """Find the trial of a study that an earlier request with this key made."""
    query = select(t.Trial).where(t.Trial.study_id == study_id, t.Trial.idempotency_key == idempotency_key)
    row = session.scalars(query).one_or_none()
    return None if row is None else record(row)


def by_ids(session: Session, *, ids: Iterable[int]) -> dict[int, TrialRecord]:
    """Find trials by id."""
    return {row.id: record(row) for row in session.scalars(select(t.Trial).where(t.Trial.id.in_(list(ids))))}


def of_study(
    session: Session,
    *,
    study_id: int,
    states: Sequence[TrialState] | None = None,
    family: str | None = None,
    ended_after: datetime | None = None,
) -> list[TrialRecord]:
    """List a study's trials by number: all, or those in some states, of a family, that ended after a time."""
    query = select(t.Trial).where(t.Trial.study_id == study_id).order_by(t.Trial.number)
    if states is not None:
        query = query.where(t.Trial.state.in_(states))
    if family is not None:
        query = query.where(t.Trial.family == family)
    if ended_after is not None:
        query = query.where(t.Trial.finished_at > ended_after)
    return [record(row) for row in session.scalars(query)]


SORTABLE = {
    "number": t.Trial.number,
    "value": t.Trial.value,
    "state": t.Trial.state,
    "optimizer": t.Trial.family,
    "examples": t.Trial.examples,
    "finished_at": t.Trial.finished_at,
}


def page(
    session: Session,
    *,
    study_id: int,
    state: TrialState | None = None,
    sort: str = "number",
    descending: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> list[TrialRecord]:
    """List one page of a study's trials, sorted by a key of `SORTABLE`; trials without the value come last."""
    column = SORTABLE[sort]
    query = select(t.Trial.id).where(t.Trial.study_id == study_id)
    if state is not None:
        query = query.where(t.Trial.state == state)
    order = (column.desc() if descending else column.asc()).nulls_last()
    # Only the rows of the page are read whole: sorting ten thousand of them costs a tenth without the rest.
    ids = list(session.scalars(query.order_by(order, t.Trial.number).offset(offset).limit(limit)))
    found = by_ids(session, ids=ids)
    return [found[trial_id] for trial_id in ids]


def best(session: Session, *, study_id: int, minimize: bool, family: str | None = None) -> TrialRecord | None:
    """Find the completed trial with the best value; the lower number wins a tie."""
    query = select(t.Trial).where(t.Trial.study_id == study_id, t.Trial.state == TrialState.COMPLETED)
    if family is not None:
        query = query.where(t.Trial.family == family)
    order = t.Trial.value.asc() if minimize else t.Trial.value.desc()
    row = session.scalars(query.order_by(order, t.Trial.number).limit(1)).one_or_none()
    return None if row is None else record(row)


def count_in_flight(session: Session, *, study_id: int) -> int:
    """Count trials that are queued or running."""
    query = select(func.count()).where(
        t.Trial.study_id == study_id, t.Trial.state.in_((TrialState.QUEUED, TrialState.RUNNING))
    )
    return session.execute(query).scalar_one()


def count_queued(session: Session, *, study_id: int) -> int:
    """Count the trials of a study that wait for a worker."""
    query = select(func.count()).where(t.Trial.study_id == study_id, t.Trial.state == QUEUED)
    return session.execute(query).scalar_one()


def counts_in_flight(session: Session, *, study_ids: Collection[int]) -> dict[int, int]:
    """Count trials that are queued or running, by study; studies without any are left out."""
    if not study_ids:
        return {}
    query = (
        select(t.Trial.study_id, func.count())
        .where(t.Trial.study_id.in_(study_ids), t.Trial.state.in_((TrialState.QUEUED, TrialState.RUNNING)))
        .group_by(t.Trial.study_id)
    )
    return {study_id: count for study_id, count in session.execute(query)}


def waiting(session: Session, *, queues: Collection[Queue]) -> dict[Queue, bool]:
    """Return which of these queues have trials that wait, and whether a user enqueued one of them.

    A look or two into an index each, however many wait.
    """
    if not queues:
        return {}
    given = values(column("study_id", t.BigId), column("stack", String), name="given").data(list(queues)).cte()
    one = exists().where(t.Trial.study_id == given.c.study_id, t.Trial.stack == given.c.stack, t.Trial.state == QUEUED)
    enqueued = one.where(t.Trial.origin == ENQUEUED)
    query = select(given, enqueued.correlate(given)).where(one.correlate(given))
    return {(study_id, stack): found for study_id, stack, found in session.execute(query)}


def numbers_in(session: Session, *, study_id: int, stacks: Collection[str]) -> list[int]:
    """Return the numbers of the trials of a study that belong to one of these stacks."""
    query = select(t.Trial.number).where(t.Trial.study_id == study_id, t.Trial.stack.in_(stacks))
    return list(session.scalars(query))


def stacks_waiting(session: Session, *, study_ids: Collection[int]) -> dict[int, list[str]]:
    """Return the stacks for which trials of these studies wait, by study; that of the first trial comes first."""
    if not study_ids:
        return {}
    query = (
        select(t.Trial.study_id, t.Trial.stack)
        .where(t.Trial.study_id.in_(study_ids), t.Trial.state == QUEUED)
        .group_by(t.Trial.study_id, t.Trial.stack)
        .order_by(func.min(t.Trial.number))
    )
    found: dict[int, list[str]] = {}
    for study_id, stack in session.execute(query):
        found.setdefault(study_id, []).append(stack)
    return found


def queued(
    session: Session, *, queue: Queue, limit: int, after: int = -1, lock: bool = True, enqueued_first: bool = False
) -> list[TrialRecord]:
    """List the first queued trials of a queue with a number above `after`; those that users enqueued first, if asked.

    With `lock`, on PostgreSQL, trials that somebody else is about to start are left out, and nobody else starts those
    returned.
    """
    one = RECORDS.where(
        t.Trial.study_id == queue[0], t.Trial.stack == queue[1], t.Trial.state == QUEUED, t.Trial.number > after
    )
    kinds = [t.Trial.origin == ENQUEUED, t.Trial.origin != ENQUEUED] if enqueued_first else [true()]
    found: list[TrialRecord] = []
    for kind in kinds:
        query = one.where(kind).order_by(t.Trial.number).limit(limit - len(found))
        if lock:
            query = query.with_for_update(skip_locked=True)
        found += [of_columns(row) for row in session.execute(query)]
    return found


def start(session: Session, *, trials: Sequence[TrialRecord]) -> None:
    """Move queued trials of running studies to running, each as its record has it: the attempt, and where it goes on.

    Raises:
        Conflict: one of them is not queued any more, or its study was paused meanwhile.
    """
    names = ("id", "state", "attempt", "step", "examples", "started_at")
    # Who pauses a study waits for whoever has locked a trial of it, but not the other way round.
    runs = exists().where(t.Study.id == t.Trial.study_id, t.Study.state == StudyState.RUNNING).correlate(t.Trial)
    guard = (t.Trial.state == TrialState.QUEUED) & runs
    update_all(session, t.Trial, names, [_values(trial, names) for trial in trials], guard)


SAVED = (
    "state", "value", "reason", "order", "order_why", "ordered_by", "charged", "step", "examples", "finished_at",
)  # fmt: skip
"""What changes while a trial runs."""


def save(session: Session, *, trials: Sequence[TrialRecord]) -> None:
    """Store what changed in running trials: progress, or the state that follows.

    Raises:
        Conflict: one of them is not running any more.
    """
    names = ("id", *SAVED)
    rows = [_values(trial, names) for trial in trials]
    update_all(session, t.Trial, names, rows, t.Trial.state == TrialState.RUNNING)


def _values(trial: TrialRecord, names: Sequence[str]) -> list[Any]:
    return [getattr(trial, name) for name in names]
