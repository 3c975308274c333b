"""Queries on who is to be told of the end of a study."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from storage import tables as t


@dataclass(frozen=True)
class Due:
    """A study whose end is to be told now."""

    study_id: int
    webhook: str
    end: datetime
    tries: int
    """That failed before."""


def due(session: Session, *, now: datetime) -> list[Due]:
    """List the studies that have ended and whose webhook is to be called now."""
    query = (
        select(t.Study.id, t.Study.webhook, t.Study.finished_at, t.Study.telling_tries)
        .where(
            t.Study.webhook.is_not(None),
            t.Study.finished_at.is_not(None),
            or_(t.Study.told_end.is_(None), t.Study.told_end != t.Study.finished_at),
            or_(t.Study.telling_next.is_(None), t.Study.telling_next <= now),
        )
        .order_by(t.Study.finished_at)
    )
    return [Due(study, str(webhook), end, tries) for study, webhook, end, tries in session.execute(query) if end]


def done(session: Session, *, of: Due) -> None:
    """Note that an end was told, or given up: it is not tried again."""
    values = {"told_end": of.end, "telling_tries": 0, "telling_next": None}
    session.execute(update(t.Study).where(t.Study.id == of.study_id).values(**values))


def failed(session: Session, *, of: Due, next_try: datetime) -> None:
    """Note that telling failed, and when to try again."""
    values = {"telling_tries": of.tries + 1, "telling_next": next_try}
    session.execute(update(t.Study).where(t.Study.id == of.study_id).values(**values))
