"""Trials as figures and rankings need them: few columns, so that ten thousand are read at once."""

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.states import TrialState

PART = 500
"""Numbers per condition: databases limit how long one may be."""


class TrialPoint(NamedTuple):
    """A trial with its result. `lr` is NaN and `batch_size` 0 where its configuration has none."""

    id: int
    number: int
    optimizer: str
    state: TrialState
    value: float | None
    reason: str | None
    replicate: int
    step: int
    examples: int
    finished_at: datetime | None
    lr: float
    batch_size: int


COLUMNS: tuple[Any, ...] = (
    t.Trial.id,
    t.Trial.number,
    t.Trial.family,
    t.Trial.state,
    t.Trial.value,
    t.Trial.reason,
    t.Trial.replicate,
    t.Trial.step,
    t.Trial.examples,
    t.Trial.finished_at,
    t.Trial.params["lr"].as_float(),
    t.Trial.params["batch_size"].as_float(),
)


def read(
    session: Session, *, study_id: int, numbers: Collection[int] | None = None, after: int | None = None
) -> list[TrialPoint]:
    """Return a study's trials by number: all, or those with these numbers, or all after a number."""
    query = select(*COLUMNS).where(t.Trial.study_id == study_id).order_by(t.Trial.number)
    if after is not None:
        query = query.where(t.Trial.number > after)
    if numbers is None:
        return [_point(row) for row in session.execute(query)]
    wanted = sorted(numbers)
    parts = [wanted[i : i + PART] for i in range(0, len(wanted), PART)]
    return [_point(row) for part in parts for row in session.execute(query.where(t.Trial.number.in_(part)))]


STATES = {state.value: state for state in TrialState}


def _point(row: Sequence[Any]) -> TrialPoint:
    trial_id, number, family, state, value, reason, replicate, step, examples, finished_at, lr, batch_size = row
    usable = lr is not None and math.isfinite(lr)
    return TrialPoint(
        trial_id, number, family, STATES[state], value, reason, replicate, step, examples, finished_at,
        lr if usable else math.nan, int(batch_size or 0),
    )  # fmt: skip
