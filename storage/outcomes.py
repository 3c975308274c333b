"""Queries on what became of a study's trials: what a sampler learns from, and whether anything has worked so far."""

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.failure import FAILURES
from tuner.study.states import TrialState


class Outcome(NamedTuple):
    """What a sampler learns from: a trial's configuration and what became of it."""

    id: int
    family: str
    params: dict[str, Any]
    state: TrialState
    value: float | None


def of_study(session: Session, *, study_id: int, states: Collection[TrialState]) -> list[Outcome]:
    """List what became of a study's trials in some states, by number."""
    columns = (t.Trial.id, t.Trial.family, t.Trial.params, t.Trial.state, t.Trial.value)
    query = select(*columns).where(t.Trial.study_id == study_id, t.Trial.state.in_(states)).order_by(t.Trial.number)
    return [Outcome(*row) for row in session.execute(query)]


def count_by_state(session: Session, *, study_id: int) -> dict[TrialState, int]:
    """Count a study's trials."""
    query = select(t.Trial.state, func.count()).where(t.Trial.study_id == study_id).group_by(t.Trial.state)
    return {TrialState(state): count for state, count in session.execute(query)}


def any_in(session: Session, *, study_id: int, states: Collection[TrialState]) -> bool:
    """Whether a study has a trial in one of the states; costs the same however many it has."""
    query = select(t.Trial.id).where(t.Trial.study_id == study_id, t.Trial.state.in_(states)).limit(1)
    return session.execute(query).first() is not None


ERROR_END = 1000
"""Characters: where the exception of a traceback stands."""


def failed_attempts(session: Session, *, study_id: int) -> dict[int, list[tuple[str, str | None]]]:
    """Return outcome and end of the traceback of each attempt that counts, in order, by ids of the failed trials."""
    error = func.substr(t.Attempt.error, func.length(t.Attempt.error) - ERROR_END)
    query = (
        select(t.Attempt.trial_id, t.Attempt.outcome, error)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .where(t.Trial.study_id == study_id, t.Trial.state == TrialState.FAILED, t.Attempt.outcome.in_(FAILURES))
        .order_by(t.Attempt.trial_id, t.Attempt.attempt)
    )
    found: dict[int, list[tuple[str, str | None]]] = {}
    for trial_id, outcome, end in session.execute(query):
        found.setdefault(trial_id, []).append((str(outcome), end))
    return found
