"""One sync: loads what the worker holds, applies the request to it in memory, and writes what changed.

- Reports and final messages apply whatever their order (they are idempotent), and only to live leases of this worker.
- New leases go only to a request newer than the last one seen.
- `assign` repeats every live lease that the worker does not hold; `stop` names every held attempt that must end.
- An attempt that was ordered to end and is not held has ended: the worker obeyed, or never began. One that is to pause
  is held until its worker says how it left.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from api.plans import Plans
from api.sync import endings, leases, resuming
from api.sync.curves import Curves
from api.sync.endings import Ending
from api.sync.grants import Grants
from api.sync.leases import Key, Lease
from api.sync.quarantine import FOR, quarantine
from storage import attempts, checkpoints, events, logs, programs, studies, trials
from storage.checkpoints import CheckpointRecord
from storage.events import Change
from storage.logs import LogRecord
from storage.workers import WorkerRecord
from tuner.study.hyperparameter import Scalar
from tuner.study.program import fingerprint
from tuner.study.states import Order, StudyState
from tuner.wire.sync import Assignment, Resume, Stop, SyncReply, SyncRequest

log = logging.getLogger(__name__)
NEXT_SYNC_S = 1.0
"""How often a busy worker reports when nothing ends."""


class Turn:
    """A worker's request within one transaction. `reply` alone reads; `apply` and `grant` need a write transaction."""

    def __init__(
        self,
        session: Session,
        plans: Plans,
        worker: WorkerRecord,
        request: SyncRequest,
        *,
        now: datetime,
        lease_s: float,
        lock: bool,
    ) -> None:
        self.changes: list[Change] = []
        self.advanced: Counter[int] = Counter()
        """By study of which something was reported: the examples that its trials went on by."""
        self.unwanted: list[str] = []
        """Files of the checkpoint store to delete once this is committed."""
        self._session = session
        self._plans = plans
        self._curves = Curves()
        self._worker = worker
        self._request = request
        self._now = now
        self._lease_s = lease_s
        self._tokens = {(held.trial, held.attempt): held.token for held in request.held}
        self._tokens |= {(word.trial, word.attempt): word.token for word in request.finished}
        pairs = attempts.leases(session, worker_id=worker.id, lock=lock)
        self._leases = leases.joined(session, plans, pairs)
        """By (trial id, attempt)."""
        self._leased: dict[int, float] = {}
        """What the studies of new leases have been served."""
        self._held: set[Key] = {
            (held.trial, held.attempt) for held in request.held if self._means(held.trial, held.attempt)
        }
        """What the worker holds of its leases. The same numbers with another token are of another database."""

    def apply(self) -> None:
        """Apply what the worker reports, and end attempts that it was told to end and no longer holds."""
        expires = self._now + timedelta(seconds=self._lease_s)
        attempts.renew(self._session, worker_id=self._worker.id, lease_expires=expires)
        self._start()
        self._restart()
        self._report()
        self._log()
        ended = [*self._finish(), *self._obeyed()]
        self.changes += endings.conclude(self._session, ended, now=self._now)
        leases.save(self._session, self._leases.values())
        self.changes += endings.unpin(self._session, ended)
        why = quarantine(self._session, self._worker, ended, self._now)
        if why is not None:
            self._worker = replace(self._worker, quarantined_until=self._now + FOR, quarantine_why=why)
            log.error("a worker is quarantined: %s", why, extra={"action": "quarantine", "worker": self._worker.name})

    def grant(self) -> None:
        """Lease queued trials to the worker's devices."""
        grants = self._grants()
        new, changes = grants.give()
        self._leases |= {lease.key: lease for lease in new}
        self._leased = {lease.study.id: grants.served[lease.study.id] for lease in new}
        self.changes += changes

    def promising(self) -> bool:
        """Whether a trial waits that one of the worker's devices may take."""
        return self._grants().promising()

    def _grants(self) -> Grants:
        return Grants(
            self._session,
            self._plans,
            self._worker,
            now=self._now,
            lease_s=self._lease_s,
            capacity=self._request.capacity,
            leases=[lease for lease in self._leases.values() if lease.live],
            held=self._held,
        )

    def record(self) -> None:
        """Store the changes of state as events, which locks their studies, and then what these were served."""
        events.append(self._session, changes=self.changes, now=self._now)
        studies.note_leases(self._session, served=self._leased, now=self._now)

    def reply(self) -> SyncReply:
        """Return everything that the worker should run or stop, whatever it was told before."""
        wanted = [lease for key, lease in sorted(self._leases.items()) if key not in self._held and lease.live]
        wanted = [lease for lease in wanted if lease.trial.order is None]
        resumes = resuming.resumes(self._session, wanted)
        in_flight = trials.counts_in_flight(self._session, study_ids={lease.study.id for lease in wanted})
        devices = len(self._worker.devices)
        assign = [
            assignment(lease, resumes.get(lease.trial.id), in_flight=in_flight.get(lease.study.id, 0), devices=devices)
            for lease in wanted
        ]
        return SyncReply(
            assign=assign,
            stop=self._stops(),
            leave=self._worker.draining,
            lease_s=self._lease_s,
            next_sync_s=NEXT_SYNC_S,
            study=self._study_state(),
        )

    def _study_state(self) -> StudyState | None:
        """Return the state of the only study whose trials the worker takes, None if it takes those of all."""
        bound = self._worker.study_id
        return None if bound is None else studies.get(self._session, bound).state

    def _lease(self, trial: int, attempt: int) -> Lease | None:
        """Find a live lease that a message of the request is about."""
        lease = self._leases.get((trial, attempt))
        return lease if lease is not None and lease.live and self._means(trial, attempt) else None

    def _means(self, trial: int, attempt: int) -> bool:
        """Whether the worker's messages on these numbers are about a lease of this database."""
        lease = self._leases.get((trial, attempt))
        return lease is not None and lease.attempt.token == self._tokens.get((trial, attempt))

    def _start(self) -> None:
        """Note the programs of attempts that began; the first of a reproducible study pins it."""
        for word in sorted(self._request.started, key=lambda word: word.trial):  # studies are locked in order
            lease = self._lease(word.trial, word.attempt)
            if lease is None:
                continue
            _note_program(lease, word.program)
            self.advanced[lease.study.id] += 0
            study = lease.study
            pins = lease.plan.spec.reproducible and study.program is None
            if pins and programs.pin(self._session, study_id=study.id, program=word.program):
                for other in self._leases.values():
                    if other.study.id == study.id:
                        other.study = replace(study, program=dict(word.program))
                data = {"fingerprint": fingerprint(word.program), "program": dict(word.program)}
                self.changes.append(Change(study.id, "study.pinned", None, data))

    def _restart(self) -> None:
        """Note attempts that could not use their checkpoint and began from zero."""
        if not self._request.restarted:
            return
        for word in self._request.restarted:
            lease = self._lease(word.trial, word.attempt)
            if lease is None or lease.attempt.resumed_from == 0 or lease.trial.step > lease.attempt.resumed_from:
                continue  # said before, or too late: what it reported began at its checkpoint
            lease.attempt = replace(lease.attempt, resumed_from=0)
            lease.trial = replace(lease.trial, step=0, examples=0)
            data = {"attempt": word.attempt, "why": word.why}
            self.changes.append(Change(lease.study.id, "trial.restarted", lease.trial.number, data))
        leases.save(self._session, self._leases.values())  # curves and checkpoints are read by `resumed_from`

    def _report(self) -> None:
        for lease, row in self._curves.take(self._request.reports, self._lease):
            self._advance(lease, row.step, row.examples)
        self._curves.store(self._session)

    def _log(self) -> None:
        """Store the ends of what attempts printed."""
        found: dict[Key, LogRecord] = {}
        for word in self._request.logs:
            lease = self._lease(word.trial, word.attempt)
            if lease is not None:
                found[lease.key] = LogRecord(*lease.key, word.text, word.written, self._now)
                self.advanced[lease.study.id] += 0
        logs.save(self._session, logs=list(found.values()))

    def _finish(self) -> list[Ending]:
        """End the attempts that the worker reports as ended, and store the files that it wrote."""
        ended = []
        files = self._checkpoints()
        for word in self._request.finished:
            lease = self._lease(word.trial, word.attempt)
            if lease is None:
                continue
            if word.program:
                _note_program(lease, word.program)
            self._advance(lease, word.step, word.examples)
            lease.end(word.outcome, now=self._now, error=word.error)
            weights = resuming.record_of(lease, word.step, word.weights) if word.weights is not None else None
            files += [weights] if weights is not None else []
            why = word.error if word.outcome == "displaced" else None
            value = self._curves.value(lease) if word.value is None else word.value
            ended.append(Ending(lease, word.infeasible, value, why, word.final))
        self.unwanted += checkpoints.add(self._session, records=files, now=self._now)
        return ended

    def _advance(self, lease: Lease, step: int, examples: int) -> None:
        before = lease.trial.examples
        lease.advance(step, examples)
        self.advanced[lease.study.id] += lease.trial.examples - before

    def _checkpoints(self) -> list[CheckpointRecord]:
        """Return the rows of the states that were written. Files without a row are left to `Retention`."""
        files = []
        for word in self._request.checkpointed:
            lease = self._lease(word.trial, word.attempt)
            record = resuming.record_of(lease, word.step, word) if lease is not None else None
            files += [record] if record is not None else []
        return files

    def _obeyed(self) -> list[Ending]:
        """End attempts that were told to end and are not held: the worker obeyed, or never began."""
        ended = []
        for key, lease in self._leases.items():
            if lease.live and lease.trial.order is not None and key not in self._held:
                lease.end("paused" if lease.trial.order is Order.PAUSE else "stopped", now=self._now)
                ended.append(Ending(lease))
        return ended

    def _stops(self) -> list[Stop]:
        claimed = {(held.trial, held.attempt) for held in self._request.held}
        strangers = {trial for trial, attempt in claimed if (trial, attempt) not in self._leases}
        found = trials.by_ids(self._session, ids=strangers) if strangers else {}
        found |= {lease.trial.id: lease.trial for lease in self._leases.values()}
        stops = []
        for trial_id, attempt in sorted(claimed):
            trial, live = found.get(trial_id), self._lease(trial_id, attempt) is not None
            if trial is None:
                stops.append(Stop(trial=trial_id, attempt=attempt, order="deleted", why="its study was deleted"))
            elif not live:
                why = f"the trial is {trial.state}, attempt {trial.attempt}"
                stops.append(Stop(trial=trial_id, attempt=attempt, order="fenced", why=why))
            elif trial.order is not None:
                why = trial.order_why or ""
                stops.append(Stop(trial=trial_id, attempt=attempt, order=trial.order.value, why=why))
        return stops


def _note_program(lease: Lease, program: Mapping[str, Scalar | None]) -> None:
    """Note what an attempt runs. It never changes: only the first message counts."""
    if lease.attempt.fingerprint is None:
        lease.attempt = replace(lease.attempt, program=dict(program), fingerprint=fingerprint(program))


def _rungs(examples: int, evaluations: int) -> list[int]:
    """Return the examples at which to evaluate; none where only the trial's own code knows how long it is."""
    return sorted({max(1, examples * i // evaluations) for i in range(1, evaluations + 1)}) if examples else []


def assignment(lease: Lease, resume: Resume | None, *, in_flight: int, devices: int) -> Assignment:
    """Return everything that the engine needs to run a trial.

    `in_flight` trials of its study have not ended; its worker has so many `devices`.
    """
    study, spec, trial = lease.study, lease.plan.spec, lease.trial
    group = lease.plan.group(trial.params)
    examples = spec.budget.examples_per_trial or 0
    left = max(1, in_flight + study.run_cap - study.runs)
    at_once = left if study.parallel is None else min(left, study.parallel)
    return Assignment(
        trial=trial.id,
        attempt=lease.attempt.attempt,
        token=lease.attempt.token,
        device=lease.attempt.device,
        stack=trial.stack,
        study=study.name,
        study_id=study.id,
        number=trial.number,
        workload=spec.workload.name,
        workload_params=dict(spec.workload.params),
        workload_values=list(spec.workload.values),
        params=trial.params,
        seed=trial.seed,
        examples=examples,
        micro_batch=group.micro_batch,
        per_tick=group.per_tick,
        micro_batch_asked=spec.micro_batch is not None,
        metric=spec.metric.name,
        goal=spec.metric.goal,
        at=spec.metric.at,
        rungs=_rungs(examples, spec.evaluations),
        report_every=max(1, examples // spec.report_points),
        divergence_factor=spec.divergence_factor,
        reproducible=spec.reproducible,
        program=study.program,
        resume=resume,
        in_flight=at_once,
        slots=lease.plan.at_once(trial.params, at_once, devices),
        remaining=lease.plan.in_all(trial.params, left, devices),
        priority=study.priority,
    )
