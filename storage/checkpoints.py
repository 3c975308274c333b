"""Queries on checkpoints: where the state of a running trial, or the weights of an ended one, is in the store.

A row is usable as long as the curve up to its step is complete: no later attempt began before that step. Rows that are
no longer useful stay until the next retention round, which deletes the file first and then the row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session, aliased

from storage import tables as t
from tuner.study.states import TERMINAL

WEIGHTS = ".weights.safetensors"


@dataclass(frozen=True)
class CheckpointRecord:
    """One file in the checkpoint store."""

    trial_id: int
    step: int
    attempt: int
    path: str
    scope: str
    digest: str
    bytes: int

    @property
    def is_weights(self) -> bool:
        """Whether this is the weights of an ended trial, not the state of a running one."""
        return self.path.endswith(WEIGHTS)


def _record(row: t.Checkpoint) -> CheckpointRecord:
    return CheckpointRecord(**{name: getattr(row, name) for name in CheckpointRecord.__dataclass_fields__})


def add(session: Session, *, record: CheckpointRecord, now: datetime) -> str | None:
    """Store a row, replacing one of the same step; return the path of the file that no longer has a row, if any."""
    before = session.get(t.Checkpoint, (record.trial_id, record.step))
    replaced = None if before is None or before.path == record.path else before.path
    fields = {name: getattr(record, name) for name in CheckpointRecord.__dataclass_fields__}
    session.merge(t.Checkpoint(**fields, created_at=now))
    session.flush()
    return replaced


def usable(session: Session, *, trial_id: int, scope: str | None = None) -> CheckpointRecord | None:
    """Find the newest checkpoint from which a trial can resume, within one scope if given."""
    later = aliased(t.Attempt)
    broken = exists().where(
        later.trial_id == t.Checkpoint.trial_id,
        later.attempt > t.Checkpoint.attempt,
        later.resumed_from < t.Checkpoint.step,
    )
    query = select(t.Checkpoint).where(
        t.Checkpoint.trial_id == trial_id, t.Checkpoint.path.not_like(f"%{WEIGHTS}"), t.Checkpoint.step > 0, ~broken
    )
    if scope is not None:
        query = query.where(t.Checkpoint.scope == scope)
    order = (t.Checkpoint.attempt.desc(), t.Checkpoint.step.desc())
    row = session.scalars(query.order_by(*order).limit(1)).one_or_none()
    return None if row is None else _record(row)


def at(session: Session, *, trial_id: int, step: int) -> CheckpointRecord | None:
    """Find the checkpoint of a step."""
    row = session.get(t.Checkpoint, (trial_id, step))
    return None if row is None else _record(row)


def weights(session: Session, *, trial_id: int) -> CheckpointRecord | None:
    """Find the stored weights of an ended trial."""
    query = select(t.Checkpoint).where(t.Checkpoint.trial_id == trial_id, t.Checkpoint.path.like(f"%{WEIGHTS}"))
    row = session.scalars(query.order_by(t.Checkpoint.step.desc()).limit(1)).one_or_none()
    return None if row is None else _record(row)


def is_known(session: Session, *, path: str) -> bool:
    """Return whether any row refers to a file."""
    return bool(session.execute(select(exists().where(t.Checkpoint.path == path))).scalar_one())


def superseded(session: Session) -> list[CheckpointRecord]:
    """List states that no trial will resume from: those of ended trials, and those superseded by a newer one."""
    newer = aliased(t.Checkpoint)
    is_older = exists().where(
        newer.trial_id == t.Checkpoint.trial_id,
        (newer.attempt > t.Checkpoint.attempt)
        | ((newer.attempt == t.Checkpoint.attempt) & (newer.step > t.Checkpoint.step)),
    )
    query = (
        select(t.Checkpoint)
        .join(t.Trial, t.Trial.id == t.Checkpoint.trial_id)
        .where(t.Checkpoint.path.not_like(f"%{WEIGHTS}"), t.Trial.state.in_(list(TERMINAL)) | is_older)
    )
    return [_record(row) for row in session.scalars(query)]


def stored_weights(session: Session) -> dict[int, list[CheckpointRecord]]:
    """List all stored weights by study id."""
    query = (
        select(t.Trial.study_id, t.Checkpoint)
        .join(t.Trial, t.Trial.id == t.Checkpoint.trial_id)
        .where(t.Checkpoint.path.like(f"%{WEIGHTS}"))
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
