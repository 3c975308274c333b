"""Checkpoints in the sync protocol: what workers say of them, and from which one a new attempt begins.

Every message may come twice. A path is taken only when it is the trial's own, so that no worker's word can make the
server open or delete another file.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from storage import attempts, checkpoints, studies, trials
from storage.attempts import AttemptRecord
from storage.checkpoints import CheckpointRecord
from storage.events import Change
from storage.trials import TrialRecord
from storage.workers import WorkerRecord
from tuner.store import SHARED
from tuner.wire.sync import Checkpointed, Resume, SyncRequest, Weights


def examples_at(trial: TrialRecord, step: int) -> int:
    """Examples that a trial has seen after so many steps."""
    return step * int(trial.params["batch_size"])


def resumable(session: Session, *, trial_id: int, device: dict[str, Any] | None = None) -> CheckpointRecord | None:
    """Find the checkpoint from which a trial goes on; on a device, the newest in the store that the device sees."""
    if device is None:
        return checkpoints.usable(session, trial_id=trial_id)
    if not device.get("checkpoints"):
        return None
    return checkpoints.usable(session, trial_id=trial_id, scope=device.get("scope", SHARED))


def waits_for_disk(
    session: Session, *, trial_id: int, device: dict[str, Any], now: datetime, lease_s: float
) -> str | None:
    """Say whether a trial's state lies on another worker's own disk: `wait` within one lease, in which that worker is
    preferred, then `over`; None otherwise.
    """
    newest = checkpoints.usable(session, trial_id=trial_id)
    if newest is None or newest.scope in (SHARED, device.get("scope", SHARED)):
        return None
    last = attempts.latest(session, trial_ids=[trial_id]).get(trial_id)
    ended = last.ended_at if last is not None else None
    return "wait" if ended is not None and now < ended + timedelta(seconds=lease_s) else "over"


def device_of(worker: WorkerRecord, name: str) -> dict[str, Any] | None:
    """Find what a worker said of one of its devices."""
    return next((device for device in worker.devices if device["device"] == name), None)


def resume_of(session: Session, trial: TrialRecord, attempt: AttemptRecord) -> Resume | None:
    """Say from where an attempt begins; None means from zero."""
    found = checkpoints.at(session, trial_id=trial.id, step=attempt.resumed_from) if attempt.resumed_from else None
    if found is None:
        return None
    examples = examples_at(trial, found.step)
    return Resume(path=found.path, digest=found.digest, bytes=found.bytes, step=found.step, examples=examples)


def apply_restarts(
    session: Session, *, live: set[tuple[int, int]], found: dict[int, TrialRecord], request: SyncRequest
) -> list[Change]:
    """Note attempts that could not use their checkpoint and began from zero."""
    changes = []
    for word in request.restarted:
        if (word.trial, word.attempt) not in live or word.trial not in found:
            continue
        if attempts.restart(session, trial_id=word.trial, attempt=word.attempt):
            trials.rewind(session, trial_id=word.trial, attempt=word.attempt)
            trial = found[word.trial]
            data = {"attempt": word.attempt, "why": word.why}
            changes.append(Change(trial.study_id, "trial.restarted", trial.number, data))
    return changes


def apply_checkpoints(
    session: Session,
    *,
    live: set[tuple[int, int]],
    found: dict[int, TrialRecord],
    request: SyncRequest,
    now: datetime,
) -> list[str]:
    """Store what was written; return the paths of files that nobody will resume from."""
    unwanted = []
    for word in request.checkpointed:
        trial = found.get(word.trial)
        if (word.trial, word.attempt) in live and trial is not None:
            replaced = keep(session, trial=trial, attempt=word.attempt, step=word.step, file=word, now=now)
            unwanted += [replaced] if replaced is not None else []
        elif not checkpoints.is_known(session, path=word.path):
            unwanted.append(word.path)
    return unwanted


def keep(session: Session, *, trial: TrialRecord, attempt: int, step: int, file: Weights, now: datetime) -> str | None:
    """Store a file of a trial, unless its path is not one of the trial's; return the path of the file it replaces."""
    study = studies.get(session, trial.study_id)
    if not file.path.startswith(f"{study.name}/{trial.number}/{attempt}-{step}-"):
        return None
    scope = file.scope if isinstance(file, Checkpointed) else SHARED
    record = CheckpointRecord(trial.id, step, attempt, file.path, scope, file.digest, file.bytes)
    return checkpoints.add(session, record=record, now=now)
