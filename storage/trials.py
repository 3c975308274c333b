"""Queries on trials. State changes are guarded by the state that they start from: the first terminal one wins."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.errors import NotFound
from tuner.study.states import TERMINAL, TrialState


@dataclass(frozen=True)
class TrialRecord:
    """A trial as stored."""

    id: int
    study_id: int
    number: int
    family: str
    params: dict[str, Any]
    seed: int
    replicate: int
    state: TrialState
    value: float | None
    reason: str | None
    stop_why: str | None
    attempt: int
    charged: int
    step: int
    examples: int
    total_steps: int
    total_examples: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def _record(row: t.Trial) -> TrialRecord:
    fields = {name: getattr(row, name) for name in TrialRecord.__dataclass_fields__}
    return TrialRecord(**{**fields, "state": TrialState(row.state)})


@dataclass(frozen=True)
class NewTrial:
    """What a trial is born with."""

    number: int
    family: str
    params: dict[str, Any]
    seed: int
    state: TrialState
    reason: str | None
    asked_after: int
    total_steps: int
    total_examples: int


def create(session: Session, *, study_id: int, trial: NewTrial, now: datetime) -> int:
    """Store a trial under the number that `studies.reserve_number` gave; return its id."""
    ended = trial.state in TERMINAL
    row = t.Trial(
        study_id=study_id, number=trial.number, family=trial.family, params=trial.params, seed=trial.seed,
        state=trial.state, reason=trial.reason, asked_after=trial.asked_after, total_steps=trial.total_steps,
        total_examples=trial.total_examples, created_at=now, finished_at=now if ended else None,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row.id


def get(session: Session, *, study_id: int, number: int) -> TrialRecord:
    """Find a trial by its number.

    Raises:
        NotFound: the study has no such trial.
    """
    row = session.scalars(select(t.Trial).where(t.Trial.study_id == study_id, t.Trial.number == number)).one_or_none()
    if row is None:
        raise NotFound(f"no trial {number} in this study")
    return _record(row)


def by_ids(session: Session, *, ids: Iterable[int]) -> dict[int, TrialRecord]:
    """Find trials by id."""
    return {row.id: _record(row) for row in session.scalars(select(t.Trial).where(t.Trial.id.in_(list(ids))))}


def of_study(
    session: Session, *, study_id: int, states: Sequence[TrialState] | None = None, family: str | None = None
) -> list[TrialRecord]:
    """List a study's trials by number."""
    query = select(t.Trial).where(t.Trial.study_id == study_id).order_by(t.Trial.number)
    if states is not None:
        query = query.where(t.Trial.state.in_(states))
    if family is not None:
        query = query.where(t.Trial.family == family)
    return [_record(row) for row in session.scalars(query)]


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
    query = select(t.Trial).where(t.Trial.study_id == study_id)
    if state is not None:
        query = query.where(t.Trial.state == state)
    order = (column.desc() if descending else column.asc()).nulls_last()
    rows = session.scalars(query.order_by(order, t.Trial.number).offset(offset).limit(limit))
    return [_record(row) for row in rows]


def best(session: Session, *, study_id: int, minimize: bool, family: str | None = None) -> TrialRecord | None:
    """Find the completed trial with the best value; the lower number wins a tie."""
    query = select(t.Trial).where(t.Trial.study_id == study_id, t.Trial.state == TrialState.COMPLETED)
    if family is not None:
        query = query.where(t.Trial.family == family)
    order = t.Trial.value.asc() if minimize else t.Trial.value.desc()
    row = session.scalars(query.order_by(order, t.Trial.number).limit(1)).one_or_none()
    return None if row is None else _record(row)


def count_in_flight(session: Session, *, study_id: int) -> int:
    """Count trials that are queued or running."""
    query = select(func.count()).where(
        t.Trial.study_id == study_id, t.Trial.state.in_((TrialState.QUEUED, TrialState.RUNNING))
    )
    return session.execute(query).scalar_one()


def waiting_and_running(session: Session, *, study_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Count the queued and the running trials of studies that have any."""
    found: dict[int, tuple[int, int]] = {}
    live = (TrialState.QUEUED, TrialState.RUNNING)
    rows = session.execute(
        select(t.Trial.study_id, t.Trial.state, func.count())
        .where(t.Trial.study_id.in_(list(study_ids)), t.Trial.state.in_(live))
        .group_by(t.Trial.study_id, t.Trial.state)
    )
    for study_id, state, count in rows:
        queued, running = found.get(study_id, (0, 0))
        found[study_id] = (count, running) if state == TrialState.QUEUED else (queued, count)
    return found


def queued(
    session: Session, *, workloads: Sequence[str], limit: int, stack: str | None, not_of: Sequence[int] = ()
) -> list[tuple[int, str]]:
    """List (trial id, stack key) of queued trials, oldest study first, that a worker with these workloads can run.

    `not_of` are ids of studies to leave out.
    """
    query = (
        select(t.Trial.id, t.Study.stack)
        .join(t.Study, t.Study.id == t.Trial.study_id)
        .where(
            t.Trial.state == TrialState.QUEUED,
            t.Study.document["workload"]["name"].as_string().in_(list(workloads)),
        )
        .order_by(t.Study.id, t.Trial.number)
        .limit(limit)
    )
    if stack is not None:
        query = query.where(t.Study.stack == stack)
    if not_of:
        query = query.where(t.Study.id.not_in(not_of))
    if session.get_bind().dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True, of=t.Trial)
    return [(trial_id, key) for trial_id, key in session.execute(query)]


def start(session: Session, *, trial_id: int, now: datetime, step: int = 0, examples: int = 0) -> int | None:
    """Move a queued trial to running, at the step where it goes on, and return its new attempt number.

    None when somebody was faster.
    """
    return session.execute(
        update(t.Trial)
        .where(t.Trial.id == trial_id, t.Trial.state == TrialState.QUEUED)
        .values(
            state=TrialState.RUNNING,
            attempt=t.Trial.attempt + 1,
            started_at=func.coalesce(t.Trial.started_at, now),
            step=step,
            examples=examples,
        )
        .returning(t.Trial.attempt)
    ).scalar_one_or_none()


def advance(session: Session, *, trial_id: int, attempt: int, step: int, examples: int) -> None:
    """Note progress; it never goes back within an attempt."""
    session.execute(
        update(t.Trial)
        .where(t.Trial.id == trial_id, t.Trial.attempt == attempt, t.Trial.step < step)
        .values(step=step, examples=examples)
    )


def rewind(session: Session, *, trial_id: int, attempt: int) -> None:
    """Set a trial's progress to zero: its attempt could not go on from a checkpoint."""
    session.execute(
        update(t.Trial).where(t.Trial.id == trial_id, t.Trial.attempt == attempt).values(step=0, examples=0)
    )


def end(
    session: Session,
    *,
    trial_id: int,
    state: TrialState,
    now: datetime,
    value: float | None = None,
    reason: str | None = None,
) -> bool:
    """Move a queued or running trial to a terminal state; False when it had already ended."""
    moved = session.execute(
        update(t.Trial)
        .where(t.Trial.id == trial_id, t.Trial.state.in_((TrialState.QUEUED, TrialState.RUNNING)))
        .values(state=state, value=value, reason=reason, stop_why=None, finished_at=now)
        .returning(t.Trial.id)
    ).one_or_none()
    return moved is not None


def requeue(session: Session, *, trial_id: int, charge: bool, step: int = 0, examples: int = 0) -> bool:
    """Put a running trial back into the queue, at the step where it will go on.

    `charge` counts the attempt against retry.max.
    """
    moved = session.execute(
        update(t.Trial)
        .where(t.Trial.id == trial_id, t.Trial.state == TrialState.RUNNING)
        .values(state=TrialState.QUEUED, charged=t.Trial.charged + int(charge), step=step, examples=examples)
        .returning(t.Trial.id)
    ).one_or_none()
    return moved is not None


def order_stop(session: Session, *, study_id: int, why: str, number: int | None = None) -> list[int]:
    """Ask running trials (one, or all of a study) to stop; return their numbers."""
    query = update(t.Trial).where(t.Trial.study_id == study_id, t.Trial.state == TrialState.RUNNING)
    if number is not None:
        query = query.where(t.Trial.number == number)
    return list(session.scalars(query.values(stop_why=func.coalesce(t.Trial.stop_why, why)).returning(t.Trial.number)))


def cancel_queued(session: Session, *, study_id: int, why: str, now: datetime, number: int | None = None) -> list[int]:
    """Cancel queued trials (one, or all of a study); return their numbers."""
    query = update(t.Trial).where(t.Trial.study_id == study_id, t.Trial.state == TrialState.QUEUED)
    if number is not None:
        query = query.where(t.Trial.number == number)
    values = query.values(state=TrialState.CANCELLED, reason=why, finished_at=now)
    return sorted(session.scalars(values.returning(t.Trial.number)))
