"""Queries on events: changes of state, numbered by their study's revision.

`append` must be the last statement of its transaction: revisions are then assigned in commit order, and a reader who
has seen revision r has seen all earlier ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage import tables as t
from storage.bulk import insert_all

_acting: ContextVar[str | None] = ContextVar("acting", default=None)


@contextmanager
def asked_by(name: str) -> Iterator[None]:
    """Write this name beside every change that is recorded in this context: who asked for it."""
    token = _acting.set(name)
    try:
        yield
    finally:
        _acting.reset(token)


@dataclass(frozen=True)
class Change:
    """A change of state that is about to be recorded."""

    study_id: int
    kind: str
    trial: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EventRecord:
    """A recorded change of state."""

    revision: int
    kind: str
    trial: int | None
    data: dict[str, Any]
    at: datetime
    by: str | None = None


COLUMNS = ("study_id", "revision", "kind", "trial", "data", "at", "by")


def append(session: Session, *, changes: Sequence[Change], now: datetime) -> None:
    """Record changes in order."""
    for study_id in sorted({change.study_id for change in changes}):  # every transaction locks in this order
        own = [change for change in changes if change.study_id == study_id]
        last = session.execute(
            update(t.Study)
            .where(t.Study.id == study_id)
            .values(revision=t.Study.revision + len(own))
            .returning(t.Study.revision)
        ).scalar_one_or_none()
        if last is None:  # the study has been deleted meanwhile, with its events
            continue
        rows = [
            (study_id, revision, change.kind, change.trial, change.data, now, _acting.get())
            for revision, change in enumerate(own, last - len(own) + 1)
        ]
        insert_all(session, t.Event, COLUMNS, rows)


def after(session: Session, *, study_id: int, revision: int, limit: int = 500) -> list[EventRecord]:
    """List events after a revision."""
    query = (
        select(t.Event)
        .where(t.Event.study_id == study_id, t.Event.revision > revision)
        .order_by(t.Event.revision)
        .limit(limit)
    )
    return [_record(event) for event in session.scalars(query)]


def latest(
    session: Session, *, study_id: int, before: int | None = None, limit: int, kinds: Sequence[str] = ()
) -> list[EventRecord]:
    """List a study's events, the newest first: those below a revision, and of these kinds if any are given."""
    query = select(t.Event).where(t.Event.study_id == study_id).order_by(t.Event.revision.desc()).limit(limit)
    if before is not None:
        query = query.where(t.Event.revision < before)
    if kinds:
        query = query.where(t.Event.kind.in_(kinds))
    return [_record(event) for event in session.scalars(query)]


def _record(e: t.Event) -> EventRecord:
    return EventRecord(e.revision, e.kind, e.trial, e.data, e.at, e.by)
