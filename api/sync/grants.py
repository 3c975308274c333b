"""New leases: which queued trials a device gets.

A device gets up to its free capacity, less what it was granted and does not hold yet, and only trials that share its
stack. A workload that did not load on a device is not offered to it again.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from api.plans import Plans
from api.sync import resuming
from api.sync.leases import Key, Lease
from api.sync.resuming import Start
from storage import attempts, programs, studies, trials
from storage.attempts import AttemptRecord
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from storage.workers import WorkerRecord
from tuner.study.states import TrialState
from tuner.wire.sync import Capacity

GIVEN_UP = "its checkpoint lies on the disk of a worker that did not take it back within one lease"


@dataclass(frozen=True)
class Grants:
    """Grants leases to one worker, within a write transaction."""

    session: Session
    plans: Plans
    worker: WorkerRecord
    now: datetime
    lease_s: float

    def to_device(
        self, capacity: Capacity, leases: Sequence[Lease], held: Collection[Key]
    ) -> tuple[list[Lease], list[Change]]:
        """Lease queued trials to a device that has these leases already; return the new ones."""
        device = resuming.device_of(self.worker, capacity.device)
        own = [lease for lease in leases if lease.attempt.device == capacity.device]
        underway = [lease for lease in own if lease.key not in held]
        free = capacity.free - len(underway)
        if device is None or free <= 0:
            return [], []
        bound_to = underway[0].study.stack if underway else None  # an idle device that was granted trials already
        # What a device without leases announces is a stack that has run empty, or whose trials were all stopped.
        stack = capacity.stack or bound_to if own else None
        chosen = list(self._choose(capacity, device, free, stack))
        new = [self._lease(capacity.device, trial, study, start) for trial, study, start in chosen]
        self._store(new)
        changes: list[Change] = []
        for lease, (_, _, start) in zip(new, chosen, strict=True):
            changes += self._changes(lease, start)
        return new, changes

    def _choose(
        self, capacity: Capacity, device: dict[str, Any], free: int, stack: str | None
    ) -> Iterator[tuple[TrialRecord, StudyRecord, Start]]:
        limits = programs.on_trial(
            self.session, worker_id=self.worker.id, device=capacity.device, declines=capacity.declines
        )
        barred = [study_id for study_id, most in limits.items() if most == 0]
        names = [workload["name"] for workload in self.worker.workloads]
        queued = trials.queued(
            self.session, workloads=names, limit=free, stack=stack, not_of=barred, not_stacks=capacity.cannot_load
        )
        ids = [trial.id for trial, _ in queued]
        starts = resuming.starts(self.session, ids, device, now=self.now, lease_s=self.lease_s)
        for trial, study in queued:
            stack = stack or study.stack
            start = starts[trial.id]
            if study.stack != stack or limits.get(study.id, 1) <= 0 or start.elsewhere == "wait":
                continue
            if study.id in limits:
                limits[study.id] -= 1
            yield trial, study, start

    def _lease(self, device: str, trial: TrialRecord, study: StudyRecord, start: Start) -> Lease:
        begun = replace(
            trial,
            state=TrialState.RUNNING,
            attempt=trial.attempt + 1,
            started_at=trial.started_at or self.now,
            step=start.step,
            examples=resuming.examples_at(trial, start.step),
        )
        attempt = AttemptRecord(
            trial_id=trial.id,
            attempt=begun.attempt,
            worker_id=self.worker.id,
            device=device,
            lease_expires=self.now + timedelta(seconds=self.lease_s),
            started_at=self.now,
            token=secrets.token_hex(8),
            resumed_from=start.step,
        )
        return Lease(attempt, begun, study, self.plans.of(study))

    def _store(self, new: Sequence[Lease]) -> None:
        trials.start(self.session, trials=[lease.trial for lease in new])
        attempts.begin(self.session, attempts=[lease.attempt for lease in new])
        first = {lease.study.id for lease in new if lease.study.started_at is None}
        if first:
            studies.mark_started(self.session, ids=first, now=self.now)

    def _changes(self, lease: Lease, start: Start) -> Iterator[Change]:
        trial, attempt = lease.trial, lease.attempt.attempt
        data = {"worker": self.worker.name, "attempt": attempt, "resumed_from": start.step}
        yield Change(trial.study_id, "trial.running", trial.number, data)
        if start.elsewhere is not None:
            yield Change(trial.study_id, "trial.restarted", trial.number, {"attempt": attempt, "why": GIVEN_UP})
