"""Checkpoints in the sync protocol: which of a worker's files are recorded, and from which one an attempt resumes.

A path is recorded only when it is the trial's own, so that no worker can make the server open or delete another file.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy.orm import Session

from api.sync.leases import Lease
from storage import attempts, checkpoints
from storage.checkpoints import CheckpointRecord, Kind
from storage.trials import TrialRecord
from storage.workers import WorkerRecord
from tuner.store import SHARED, kind_of
from tuner.wire.sync import Checkpointed, Resume, Weights


def examples_at(trial: TrialRecord, step: int) -> int:
    """Examples that a trial has seen after a number of steps."""
    return step * int(trial.params["batch_size"]) if step else 0


def record_of(lease: Lease, step: int, file: Weights) -> CheckpointRecord | None:
    """Return the row for a file of the lease's trial; None for a path of another trial or kind."""
    trial_id, attempt = lease.key
    kind: Kind = "state" if isinstance(file, Checkpointed) else "weights"
    own = f"{lease.study.name}/{lease.trial.number}/{attempt}-{step}-"
    if not file.path.startswith(own) or kind_of(file.path) != kind:
        return None
    scope = file.scope if isinstance(file, Checkpointed) else SHARED
    return CheckpointRecord(trial_id, step, attempt, kind, file.path, scope, file.digest, file.bytes)


def device_of(worker: WorkerRecord, name: str) -> dict[str, Any] | None:
    """Find a worker's own description of one of its devices."""
    return next((device for device in worker.devices if device["device"] == name), None)


@dataclass(frozen=True)
class Start:
    """Where a trial would begin on a device, and whether its state lies on the disk of another worker.

    `elsewhere`: `wait` within one lease, while the worker with the disk is preferred; then `given up`.
    """

    step: int = 0
    elsewhere: Literal["wait", "given up"] | None = None


def starts(
    session: Session, trial_ids: Collection[int], device: dict[str, Any], *, now: datetime, lease_s: float
) -> dict[int, Start]:
    """Return where each trial would begin on a device: at the newest checkpoint that the device can read."""
    newest = checkpoints.usable(session, trial_ids=trial_ids)
    scope = device.get("scope", SHARED)
    away = [trial_id for trial_id, found in newest.items() if found.scope not in (SHARED, scope)]
    ends = {k: a.ended_at for k, a in attempts.latest(session, trial_ids=away).items()} if away else {}
    readable: dict[int, CheckpointRecord] = {}
    if device.get("checkpoints"):
        readable = checkpoints.usable(session, trial_ids=list(newest), scope=scope)
    found = {}
    for trial_id in trial_ids:
        step = readable[trial_id].step if trial_id in readable else 0
        if trial_id not in away:
            found[trial_id] = Start(step)
        else:
            ended = ends.get(trial_id)
            waits = ended is not None and now < ended + timedelta(seconds=lease_s)
            found[trial_id] = Start(step, "wait" if waits else "given up")
    return found


def resumes(session: Session, leases: Sequence[Lease]) -> dict[int, Resume]:
    """Return the file from which each attempt resumes, by trial; attempts that begin from zero are left out."""
    keys = [(lease.trial.id, lease.attempt.resumed_from) for lease in leases if lease.attempt.resumed_from]
    trials = {lease.trial.id: lease.trial for lease in leases}
    found = {}
    for (trial_id, step), file in checkpoints.at(session, keys=keys).items():
        examples = examples_at(trials[trial_id], step)
        found[trial_id] = Resume(path=file.path, digest=file.digest, bytes=file.bytes, step=step, examples=examples)
    return found
