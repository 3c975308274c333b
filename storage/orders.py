"""What trials are told to do, taken back, and what ended is queued again. All are guarded updates.

An order is of a running trial. One that waits or is paused is cancelled at once. Who gave the word is kept with a
cancelled trial: what a study's end cancelled goes on with the study.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from storage import tables as t
from storage.bulk import update_all
from storage.trials import TrialRecord, record
from tuner.study.states import Order, OrderedBy, TrialState

WAITING = (TrialState.QUEUED, TrialState.PAUSED)
OPEN = (*WAITING, TrialState.RUNNING)


def lock_open(session: Session, *, study_id: int) -> None:
    """On PostgreSQL, let nobody else change a study's queued, paused and running trials before the transaction ends."""
    query = select(t.Trial.id).where(t.Trial.study_id == study_id, t.Trial.state.in_(OPEN))
    session.execute(query.order_by(t.Trial.id).with_for_update())


def lock(session: Session, *, study_id: int, number: int) -> None:
    """On PostgreSQL, let nobody else change a trial before the transaction ends."""
    query = select(t.Trial.id).where(t.Trial.study_id == study_id, t.Trial.number == number)
    session.execute(query.with_for_update())


def give(
    session: Session, *, study_id: int, order: Order, why: str, by: OrderedBy, number: int | None = None
) -> list[int]:
    """Order running trials (one, or all of a study); return the numbers of those that were not told so before."""
    replaced = [other for other in Order if order.replaces(other)]
    query = _of(study_id, number).where(t.Trial.state == TrialState.RUNNING)
    query = query.where(or_(t.Trial.order.is_(None), t.Trial.order.in_(replaced)))
    told = query.values(order=order, order_why=why, ordered_by=by).returning(t.Trial.number)
    return sorted(session.scalars(told))


def withdraw(session: Session, *, study_id: int, order: Order) -> list[int]:
    """Take an order of a study back from the trials that have not carried it out; return their numbers."""
    query = _of(study_id).where(t.Trial.order == order, t.Trial.ordered_by == OrderedBy.STUDY)
    back = query.values(order=None, order_why=None, ordered_by=None).returning(t.Trial.number)
    return sorted(session.scalars(back))


def cancel_waiting(
    session: Session, *, study_id: int, why: str, by: OrderedBy, now: datetime, number: int | None = None
) -> list[int]:
    """Cancel queued and paused trials (one, or all of a study); return their numbers."""
    query = _of(study_id, number).where(t.Trial.state.in_(WAITING))
    ended = query.values(state=TrialState.CANCELLED, reason=why, ordered_by=by, finished_at=now)
    return sorted(session.scalars(ended.returning(t.Trial.number)))


def paused(session: Session, *, study_id: int) -> list[TrialRecord]:
    """List a study's paused trials by number."""
    return _listed(session, t.Trial.study_id == study_id, t.Trial.state == TrialState.PAUSED)


def cancelled_with_study(session: Session, *, study_id: int) -> list[TrialRecord]:
    """List the trials that the end of their study cancelled, by number."""
    cancelled = t.Trial.state == TrialState.CANCELLED
    return _listed(session, t.Trial.study_id == study_id, cancelled, t.Trial.ordered_by == OrderedBy.STUDY)


AGAIN = ("state", "value", "reason", "ordered_by", "charged", "step", "examples", "finished_at")


def queue_again(session: Session, *, trials: Sequence[TrialRecord], old: TrialState) -> None:
    """Move trials from a state in which they wait or have ended to the queue, each as its record has it.

    Raises:
        Conflict: one of them is not in that state any more.
    """
    names = ("id", *AGAIN)
    rows = [[getattr(trial, name) for name in names] for trial in trials]
    update_all(session, t.Trial, names, rows, t.Trial.state == old)


def _of(study_id: int, number: int | None = None) -> Any:
    query = update(t.Trial).where(t.Trial.study_id == study_id)
    return query if number is None else query.where(t.Trial.number == number)


def _listed(session: Session, *conditions: ColumnElement[bool]) -> list[TrialRecord]:
    return [record(row) for row in session.scalars(select(t.Trial).where(*conditions).order_by(t.Trial.number))]
