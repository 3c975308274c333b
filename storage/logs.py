"""Queries on logs: the end of what each attempt printed. A later one replaces an earlier one."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import tables as t
from storage.bulk import upsert


class LogRecord(NamedTuple):
    """The end of an attempt's output; `written` counts all of its bytes."""

    trial_id: int
    attempt: int
    text: str
    written: int
    updated_at: datetime


def save(session: Session, *, logs: Sequence[LogRecord]) -> None:
    """Store the ends of outputs, in place of earlier ones of the same attempts."""
    if logs:
        upsert(session, t.Log, [log._asdict() for log in logs])


def latest(session: Session, *, trial_id: int, attempt: int | None = None) -> LogRecord | None:
    """Return the log of a trial's attempt; of the latest that has one by default."""
    columns = (t.Log.trial_id, t.Log.attempt, t.Log.text, t.Log.written, t.Log.updated_at)
    query = select(*columns).where(t.Log.trial_id == trial_id).order_by(t.Log.attempt.desc()).limit(1)
    if attempt is not None:
        query = query.where(t.Log.attempt == attempt)
    row = session.execute(query).one_or_none()
    return None if row is None else LogRecord(*row)
