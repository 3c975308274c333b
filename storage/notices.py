"""Queries behind the line that says what a study needs: what its failed trials said, and who else is being served."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.states import TrialState

TAIL = 4000
"""Characters at the end of a traceback that are read: it names the exception."""


class Failure(NamedTuple):
    """A trial that ended without a result: why, in short, and the end of its last attempt's error."""

    number: int
    reason: str | None
    error: str | None


def failures(session: Session, *, study_id: int, states: Collection[TrialState], limit: int) -> list[Failure]:
    """List the trials of a study that ended in these states, the latest first."""
    error = t.Attempt.error
    query = (
        select(t.Trial.number, t.Trial.reason, func.substr(error, func.length(error) - TAIL + 1))
        .outerjoin(t.Attempt, (t.Attempt.trial_id == t.Trial.id) & (t.Attempt.attempt == t.Trial.attempt))
        .where(t.Trial.study_id == study_id, t.Trial.state.in_(states))
        .order_by(t.Trial.finished_at.desc(), t.Trial.number)
        .limit(limit)
    )
    return [Failure(*row) for row in session.execute(query)]


def running_beside(session: Session, *, study_id: int, limit: int = 3) -> list[str]:
    """Name other studies whose trials are running now."""
    query = (
        select(t.Study.name)
        .join(t.Trial, t.Trial.study_id == t.Study.id)
        .where(t.Trial.state == TrialState.RUNNING, t.Study.id != study_id)
        .group_by(t.Study.id, t.Study.name)
        .order_by(t.Study.id)
        .limit(limit)
    )
    return list(session.scalars(query))
