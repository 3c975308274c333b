"""What is dropped of studies that ended long ago: their events, and the rows of their curves.

Trials, their values and everything that names them stay; what is worked out from the rows (curves, noise, batch-size
advice) is gone with them.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage import tables as t

ROWS = 20_000
"""Deleted in one transaction: others wait for it."""


def ended(session: Session, *, before: datetime) -> list[int]:
    """List the studies that ended before a time."""
    query = select(t.Study.id).where(t.Study.finished_at.is_not(None), t.Study.finished_at < before)
    return list(session.scalars(query.order_by(t.Study.id)))


def forget_events(session: Session, *, study_ids: Sequence[int]) -> int:
    """Delete events of studies, a portion of them; return how many."""
    found = session.execute(
        select(t.Event.study_id, t.Event.revision).where(t.Event.study_id.in_(study_ids)).limit(ROWS)
    ).all()
    for study_id in {row.study_id for row in found}:
        last = max(row.revision for row in found if row.study_id == study_id)
        session.execute(delete(t.Event).where(t.Event.study_id == study_id, t.Event.revision <= last))
    return len(found)


def forget_reports(session: Session, *, study_ids: Sequence[int]) -> int:
    """Delete the rows of the curves of studies, a portion of them; return of how many trials."""
    reported = select(t.Report.trial_id).where(t.Report.trial_id == t.Trial.id).exists()
    portion = select(t.Trial.id).where(t.Trial.study_id.in_(study_ids), reported).limit(ROWS // 200)
    trial_ids = list(session.scalars(portion))
    if trial_ids:
        session.execute(delete(t.Report).where(t.Report.trial_id.in_(trial_ids)))
    return len(trial_ids)
