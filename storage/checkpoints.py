"""Queries on checkpoints: where the state of a running trial, or the weights of an ended one, is in the store.

A row is usable as long as the curve up to its step is complete: no later attempt began before that step. Rows that are
no longer useful stay until the next retention round, which deletes the file first and then the row.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, exists, select, tuple_
from sqlalchemy.orm import Session, aliased

from storage import tables as t
from storage.bulk import upsert
from tuner.study.states import TERMINAL, TrialState

Kind = Literal["state", "weights"]
"""The state of a running trial, or the weights of an ended one."""
OVER = sorted(TERMINAL - {TrialState.FAILED, TrialState.CANCELLED})
"""States in which no trial goes on from where it was; one that diverged would do so again, and begins from zero."""


@dataclass(frozen=True)
class CheckpointRecord:
    """One file in the checkpoint store."""

    trial_id: int
    step: int
    attempt: int
    kind: Kind
    path: str
    scope: str
    digest: str
    bytes: int

    @property
    def key(self) -> tuple[int, int]:
        """(trial id, step): what a row is found by."""
        return self.trial_id, self.step


def _record(row: t.Checkpoint) -> CheckpointRecord:
    return CheckpointRecord(**{name: getattr(row, name) for name in CheckpointRecord.__dataclass_fields__})


def add(session: Session, *, records: Sequence[CheckpointRecord], now: datetime) -> list[str]:
    """Store rows, each replacing one of the same trial and step; return the paths of files that no row names now."""
    before = at(session, keys=[record.key for record in records])
    replaced = []
    for record in records:
        if record.key in before and before[record.key].path != record.path:
            replaced.append(before[record.key].path)
        before[record.key] = record
    rows = [{name: getattr(record, name) for name in CheckpointRecord.__dataclass_fields__} for record in records]
    upsert(session, t.Checkpoint, [{**row, "created_at": now} for row in rows])
    return replaced


def usable(session: Session, *, trial_ids: Collection[int], scope: str | None = None) -> dict[int, CheckpointRecord]:
    """Find the newest checkpoint from which each trial can go on, of one scope where it is given."""
    if not trial_ids:
        return {}
    later = aliased(t.Attempt)
    broken = exists().where(
        later.trial_id == t.Checkpoint.trial_id,
        later.attempt > t.Checkpoint.attempt,
        later.resumed_from < t.Checkpoint.step,
    )
    query = select(t.Checkpoint).where(
        t.Checkpoint.trial_id.in_(trial_ids), t.Checkpoint.kind == "state", t.Checkpoint.step > 0, ~broken
    )
    if scope is not None:
        query = query.where(t.Checkpoint.scope == scope)
    newest_last = query.order_by(t.Checkpoint.attempt, t.Checkpoint.step)
    return {row.trial_id: _record(row) for row in session.scalars(newest_last)}


def at(session: Session, *, keys: Collection[tuple[int, int]]) -> dict[tuple[int, int], CheckpointRecord]:
    """Find the checkpoints of (trial id, step)."""
    if not keys:
        return {}
    query = select(t.Checkpoint).where(tuple_(t.Checkpoint.trial_id, t.Checkpoint.step).in_(keys))
    return {(row.trial_id, row.step): _record(row) for row in session.scalars(query)}


def weights(session: Session, *, trial_id: int) -> CheckpointRecord | None:
    """Find the stored weights of an ended trial."""
    query = select(t.Checkpoint).where(t.Checkpoint.trial_id == trial_id, t.Checkpoint.kind == "weights")
    row = session.scalars(query.order_by(t.Checkpoint.step.desc()).limit(1)).one_or_none()
    return None if row is None else _record(row)


def superseded(session: Session, *, ended_before: datetime) -> list[CheckpointRecord]:
    """List states that no trial will resume from: those superseded by a newer one, and those of ended trials.

    What failed or was cancelled may be tried again: its newest state is listed only if it ended before a time.
    """
    newer = aliased(t.Checkpoint)
    is_older = exists().where(
        newer.trial_id == t.Checkpoint.trial_id,
        (newer.attempt > t.Checkpoint.attempt)
        | ((newer.attempt == t.Checkpoint.attempt) & (newer.step > t.Checkpoint.step)),
    )
    query = (
        select(t.Checkpoint)
        .join(t.Trial, t.Trial.id == t.Checkpoint.trial_id)
        .where(t.Checkpoint.kind == "state", t.Trial.state.in_(OVER) | is_older | (t.Trial.finished_at < ended_before))
    )
    return [_record(row) for row in session.scalars(query)]


def stored_weights(session: Session) -> dict[int, list[CheckpointRecord]]:
    """List all stored weights by study id."""
    query = (
        select(t.Trial.study_id, t.Checkpoint)
        .join(t.Trial, t.Trial.id == t.Checkpoint.trial_id)
        .where(t.Checkpoint.kind == "weights")
    )
    found: dict[int, list[CheckpointRecord]] = {}
    for study_id, row in session.execute(query):
        found.setdefault(study_id, []).append(_record(row))
    return found


def paths(session: Session, *, study_id: int | None = None) -> list[str]:
    """List the paths of all rows, or of those of one study."""
    query = select(t.Checkpoint.path)
    if study_id is not None:
        query = query.join(t.Trial, t.Trial.id == t.Checkpoint.trial_id).where(t.Trial.study_id == study_id)
    return list(session.scalars(query))


def forget_states(session: Session, *, trial_id: int) -> None:
    """Delete the rows of a trial's states, so that it begins from zero; their files go with others without a row."""
    session.execute(delete(t.Checkpoint).where(t.Checkpoint.trial_id == trial_id, t.Checkpoint.kind == "state"))


def forget(session: Session, *, records: Iterable[CheckpointRecord]) -> None:
    """Delete rows, each only if it still refers to the same file."""
    for record in records:
        session.execute(
            delete(t.Checkpoint).where(
                t.Checkpoint.trial_id == record.trial_id,
                t.Checkpoint.step == record.step,
                t.Checkpoint.path == record.path,
            )
        )
