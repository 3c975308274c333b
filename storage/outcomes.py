"""Queries on what became of a study's trials: what a sampler learns from, and whether anything has worked so far."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, CompoundSelect, bindparam, func, select, union_all
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.failure import FAILURES, NOT_LOADED
from tuner.study.states import TrialState

TOLD = (TrialState.COMPLETED, TrialState.INFEASIBLE, TrialState.FAILED)
"""Ended trials that a sampler may learn from."""
PENDING = (TrialState.QUEUED, TrialState.RUNNING, TrialState.PAUSED)
SHOWN = frozenset(state.value for state in (*TOLD, *PENDING))
STATES = {state.value: state for state in TrialState}


class Outcome(NamedTuple):
    """What became of a trial, by its number in the study."""

    number: int
    state: TrialState
    value: float | None


def shown(
    session: Session, *, study_id: int, family: str, minimize: bool, part: int, sampled: Sequence[int]
) -> list[Outcome]:
    """Select, by number, the trials of a family that a sampler is shown; costs the same however many it has.

    They are the `part` best completed ones, the `part` newest that ended with something to learn from, the `part`
    newest under way, and of these three kinds those at the indexes `sampled` of the family's sequence.
    """
    given = {"study_id": study_id, "family": family, "part": part, "sampled": list(sampled)}
    rows: Sequence[Any] = session.connection().execute(_selection(minimize), given).all()
    found = {number: Outcome(number, STATES[state], value) for number, state, value in rows if state in SHOWN}
    return [found[number] for number in sorted(found)]


@cache
def _selection(minimize: bool) -> CompoundSelect[Any]:
    value, number = t.Trial.value, t.Trial.number
    part: BindParameter[int] = bindparam("part")
    by_value = (value.asc(), number.asc()) if minimize else (value.desc(), number.desc())
    light = select(number, t.Trial.state, value).where(
        t.Trial.study_id == bindparam("study_id"), t.Trial.family == bindparam("family")
    )
    parts = [
        light.where(t.Trial.state == TrialState.COMPLETED).order_by(*by_value).limit(part),
        light.where(t.Trial.state.in_(TOLD)).order_by(number.desc()).limit(part),
        # A sum: the few under way would be looked for among all that ended, in the order of the index.
        light.where(t.Trial.state.in_(PENDING)).order_by((number + 0).desc()).limit(part),
        # No condition on the state: it would be looked for in the index of states.
        light.where(t.Trial.family_index.in_(bindparam("sampled", expanding=True))),
    ]
    return union_all(*(select(one.subquery()) for one in parts))


def configurations(
    session: Session, *, study_id: int, numbers: Collection[int]
) -> dict[int, tuple[int, dict[str, Any]]]:
    """Return id and configuration of trials, by number."""
    query = select(t.Trial.number, t.Trial.id, t.Trial.params)
    found = {}
    wanted = list(numbers)
    for begin in range(0, len(wanted), AT_ONCE):
        some = t.Trial.number.in_(wanted[begin : begin + AT_ONCE])
        for number, trial_id, params in session.execute(query.where(t.Trial.study_id == study_id, some)):
            found[number] = trial_id, params
    return found


AT_ONCE = 500
"""Numbers in one statement."""


def count_by_state(session: Session, *, study_id: int, failed_after: datetime | None = None) -> dict[TrialState, int]:
    """Count a study's trials; of the failed ones, where a time is given, only those that failed after it."""
    query = select(t.Trial.state, func.count()).where(t.Trial.study_id == study_id).group_by(t.Trial.state)
    if failed_after is not None:
        query = query.where((t.Trial.state != TrialState.FAILED) | (t.Trial.finished_at > failed_after))
    return {TrialState(state): count for state, count in session.execute(query)}


def any_in(session: Session, *, study_id: int, states: Collection[TrialState]) -> bool:
    """Whether a study has a trial in one of the states; costs the same however many it has."""
    query = select(t.Trial.id).where(t.Trial.study_id == study_id, t.Trial.state.in_(states)).limit(1)
    return session.execute(query).first() is not None


def last_failures(session: Session, *, trial_ids: Collection[int]) -> dict[int, tuple[str, str | None]]:
    """Return outcome and traceback of the latest attempt that counts of each trial that has one."""
    latest = (
        select(t.Attempt.trial_id, func.max(t.Attempt.attempt).label("attempt"))
        .where(t.Attempt.trial_id.in_(trial_ids), t.Attempt.outcome.in_(FAILURES))
        .group_by(t.Attempt.trial_id)
        .subquery()
    )
    query = select(t.Attempt.trial_id, t.Attempt.outcome, t.Attempt.error).join(
        latest, (latest.c.trial_id == t.Attempt.trial_id) & (latest.c.attempt == t.Attempt.attempt)
    )
    return {trial_id: (str(outcome), error) for trial_id, outcome, error in session.execute(query)}


def not_loaded(session: Session, *, study_id: int) -> dict[tuple[int, str], str]:
    """Return what the devices said on which a study's workload did not load, by worker and device."""
    query = (
        select(t.Attempt.worker_id, t.Attempt.device, t.Attempt.error)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .where(t.Trial.study_id == study_id, t.Attempt.outcome == "displaced", t.Attempt.error.contains(NOT_LOADED))
        .order_by(t.Attempt.ended_at)
    )
    return {(worker_id, device): error or "" for worker_id, device, error in session.execute(query)}


ERROR_END = 1000
"""Characters: where the exception of a traceback stands."""


def failed_attempts(
    session: Session, *, study_id: int, trial_ids: Collection[int] | None = None
) -> dict[int, list[tuple[str, str | None]]]:
    """Return outcome and end of the traceback of each attempt that counts, in order, by ids of the failed trials.

    With `trial_ids`, only of these.
    """
    error = func.substr(t.Attempt.error, func.length(t.Attempt.error) - ERROR_END)
    query = (
        select(t.Attempt.trial_id, t.Attempt.outcome, error)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .where(t.Trial.study_id == study_id, t.Trial.state == TrialState.FAILED, t.Attempt.outcome.in_(FAILURES))
        .order_by(t.Attempt.trial_id, t.Attempt.attempt)
    )
    if trial_ids is not None:
        query = query.where(t.Trial.id.in_(trial_ids))
    found: dict[int, list[tuple[str, str | None]]] = {}
    for trial_id, outcome, end in session.execute(query):
        found.setdefault(trial_id, []).append((str(outcome), end))
    return found
