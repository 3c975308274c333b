"""The server's side of the sync protocol: one transaction turns a worker's state into the wanted state.

- Reports and finishes apply whatever the order (they are idempotent); only a live attempt of this worker is heard.
- New leases are granted only to a request newer than the last seen, and only up to its capacity less what it was
  granted and does not hold yet.
- `assign` repeats every live lease that the worker does not hold; `stop` names every held attempt that must end.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from api.plans import Plan, Plans
from api.sync import endings, resuming, slots
from storage import attempts, events, programs, reports, studies, trials, workers
from storage.attempts import AttemptRecord
from storage.events import Change
from storage.reports import Noise, ReportRow
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from storage.workers import WorkerRecord
from tuner.study.states import TrialState
from tuner.wire.sync import Assignment, Capacity, Report, Resume, Stop, SyncReply, SyncRequest

NEXT_SYNC_S = 1.0
"""How often a busy worker reports when nothing ends."""


@dataclass
class Outcome:
    """What a sync did: the reply, and what others must hear of."""

    reply: SyncReply
    changes: list[Change] = field(default_factory=list)
    advanced: set[int] = field(default_factory=set)
    unwanted: list[str] = field(default_factory=list)
    """Files of the checkpoint store to delete once this is committed."""


class Leasing:
    """Applies syncs."""

    def __init__(self, plans: Plans, lease_s: float) -> None:
        self._plans = plans
        self._lease_s = lease_s

    def sync(
        self, session: Session, *, worker_id: int, request: SyncRequest, now: datetime, again: bool = False
    ) -> Outcome:
        """Apply a request and say what is wanted. Call within a write transaction.

        `again` is a further look on behalf of a request that waits for work; it is granted leases as long as no newer
        request of the session was seen.

        Raises:
            NotFound: the worker must register again.
        """
        worker = workers.get(session, worker_id=worker_id, worker_session=request.session)
        outcome = Outcome(SyncReply(lease_s=self._lease_s, next_sync_s=NEXT_SYNC_S))
        newer = workers.seen(session, worker_id=worker_id, seq=request.seq, now=now)
        newer = newer or (again and worker.seq == request.seq)
        attempts.renew(session, worker_id=worker_id, lease_expires=now + timedelta(seconds=self._lease_s))
        if request.started:
            outcome.changes += slots.apply_starts(session, plans=self._plans, worker_id=worker_id, request=request)
        slots.apply_counts(session, worker_id=worker_id, request=request)
        self._apply_restarts(session, worker_id, request, outcome)
        self._apply_reports(session, worker_id, request, outcome)
        self._apply_checkpoints(session, worker_id, request, outcome, now)
        self._apply_finishes(session, worker_id, request, outcome, now)
        self._drop_stopped(session, worker_id, request, outcome, now)
        if newer:
            for capacity in request.capacity:
                self._grant(session, worker, capacity, request, outcome, now)
        outcome.reply = self._wanted(session, worker_id, request)
        events.append(session, changes=outcome.changes, now=now)
        return outcome

    def _apply_reports(self, session: Session, worker_id: int, request: SyncRequest, outcome: Outcome) -> None:
        live = {(a.trial_id, a.attempt) for a in attempts.live_of_worker(session, worker_id=worker_id)}
        heard = [r for r in request.reports if (r.trial, r.attempt) in live]
        last: dict[tuple[int, int], Report] = {}
        reports.add(session, rows=[_row(report) for report in heard])
        for report in heard:
            key = (report.trial, report.attempt)
            if key not in last or last[key].step < report.step:
                last[key] = report
        for (trial_id, attempt), report in last.items():
            trials.advance(session, trial_id=trial_id, attempt=attempt, step=report.step, examples=report.examples)
        found = trials.by_ids(session, ids={trial_id for trial_id, _ in last})
        outcome.advanced.update(trial.study_id for trial in found.values())

    def _apply_restarts(self, session: Session, worker_id: int, request: SyncRequest, outcome: Outcome) -> None:
        if request.restarted:
            live = {(a.trial_id, a.attempt) for a in attempts.live_of_worker(session, worker_id=worker_id)}
            found = trials.by_ids(session, ids={word.trial for word in request.restarted})
            outcome.changes += resuming.apply_restarts(session, live=live, found=found, request=request)

    def _apply_checkpoints(
        self, session: Session, worker_id: int, request: SyncRequest, outcome: Outcome, now: datetime
    ) -> None:
        if request.checkpointed:
            live = {(a.trial_id, a.attempt) for a in attempts.live_of_worker(session, worker_id=worker_id)}
            found = trials.by_ids(session, ids={word.trial for word in request.checkpointed})
            outcome.unwanted += resuming.apply_checkpoints(session, live=live, found=found, request=request, now=now)

    def _apply_finishes(
        self, session: Session, worker_id: int, request: SyncRequest, outcome: Outcome, now: datetime
    ) -> None:
        live = {(a.trial_id, a.attempt) for a in attempts.live_of_worker(session, worker_id=worker_id)}
        found = trials.by_ids(session, ids={word.trial for word in request.finished})
        for word in request.finished:
            if (word.trial, word.attempt) in live:
                trial = found[word.trial]
                plan = self._plans.of(studies.get(session, trial.study_id))
                outcome.changes += endings.finish(session, trial=trial, plan=plan, word=word, now=now)

    def _drop_stopped(
        self, session: Session, worker_id: int, request: SyncRequest, outcome: Outcome, now: datetime
    ) -> None:
        """End attempts that were told to stop and are no longer held: the worker obeyed, or never began."""
        held = {(h.trial, h.attempt) for h in request.held}
        live = attempts.live_of_worker(session, worker_id=worker_id)
        found = trials.by_ids(session, ids={a.trial_id for a in live})
        for attempt in live:
            trial = found[attempt.trial_id]
            if trial.stop_why is None or (attempt.trial_id, attempt.attempt) in held:
                continue
            attempts.end(session, trial_id=trial.id, attempt=attempt.attempt, outcome="stopped", now=now)
            plan = self._plans.of(studies.get(session, trial.study_id))
            outcome.changes += endings.give_back(session, trial=trial, plan=plan, outcome="stopped", now=now)

    def _grant(
        self,
        session: Session,
        worker: WorkerRecord,
        capacity: Capacity,
        request: SyncRequest,
        outcome: Outcome,
        now: datetime,
    ) -> None:
        device = resuming.device_of(worker, capacity.device)
        if device is None:
            return
        held = {(h.trial, h.attempt) for h in request.held}
        live = [a for a in attempts.live_of_worker(session, worker_id=worker.id) if a.device == capacity.device]
        underway = [a for a in live if (a.trial_id, a.attempt) not in held]
        free = capacity.free - len(underway)
        key = capacity.stack if capacity.stack is not None else self._stack_of(session, underway)
        if free <= 0:
            return
        names = [workload["name"] for workload in worker.workloads]
        limits = programs.on_trial(session, worker_id=worker.id, device=capacity.device, declines=capacity.declines)
        barred = [study_id for study_id, most in limits.items() if most == 0]
        for trial_id, stack in trials.queued(session, workloads=names, limit=free, stack=key, not_of=barred):
            key = key or stack
            if stack != key:
                continue
            trial = trials.by_ids(session, ids=[trial_id])[trial_id]
            if limits.get(trial.study_id, 1) <= 0:
                continue
            away = resuming.waits_for_disk(session, trial_id=trial_id, device=device, now=now, lease_s=self._lease_s)
            if away == "wait":
                continue
            found = resuming.resumable(session, trial_id=trial_id, device=device)
            step = found.step if found is not None else 0
            examples = resuming.examples_at(trial, step)
            attempt = trials.start(session, trial_id=trial_id, now=now, step=step, examples=examples)
            if attempt is None:
                continue
            if trial.study_id in limits:
                limits[trial.study_id] -= 1
            attempts.begin(
                session,
                trial_id=trial_id,
                attempt=attempt,
                worker_id=worker.id,
                device=capacity.device,
                lease_expires=now + timedelta(seconds=self._lease_s),
                now=now,
                resumed_from=step,
            )
            studies.mark_started(session, study_id=trial.study_id, now=now)
            data = {"worker": worker.name, "attempt": attempt, "resumed_from": step}
            outcome.changes.append(Change(trial.study_id, "trial.running", trial.number, data))
            if away == "over":
                why = "its checkpoint lies on the disk of a worker that did not take it back within one lease"
                outcome.changes.append(
                    Change(trial.study_id, "trial.restarted", trial.number, {"attempt": attempt, "why": why})
                )

    def _stack_of(self, session: Session, underway: list[AttemptRecord]) -> str | None:
        """An idle device that was granted trials already is bound to their stack."""
        if not underway:
            return None
        trial = trials.by_ids(session, ids=[underway[0].trial_id])[underway[0].trial_id]
        return studies.get(session, trial.study_id).stack

    def _wanted(self, session: Session, worker_id: int, request: SyncRequest) -> SyncReply:
        live = {(a.trial_id, a.attempt): a for a in attempts.live_of_worker(session, worker_id=worker_id)}
        held = {(h.trial, h.attempt) for h in request.held}
        ended = {(f.trial, f.attempt) for f in request.finished}
        found = trials.by_ids(session, ids={trial_id for trial_id, _ in held | live.keys()})
        stop = []
        for trial_id, number in sorted(held):
            trial = found.get(trial_id)
            if (trial_id, number) not in live:
                why = "deleted" if trial is None else f"fenced: the trial is {trial.state}, attempt {trial.attempt}"
                stop.append(Stop(trial=trial_id, attempt=number, why=why))
            elif trial is not None and trial.stop_why is not None:
                stop.append(Stop(trial=trial_id, attempt=number, why=trial.stop_why))
        assign = []
        cache: dict[int, StudyRecord] = {}
        for (trial_id, number), attempt in sorted(live.items()):
            if (trial_id, number) in held or (trial_id, number) in ended:
                continue
            trial = found[trial_id]
            if trial.state != TrialState.RUNNING or trial.stop_why is not None:
                continue
            if trial.study_id not in cache:
                cache[trial.study_id] = studies.get(session, trial.study_id)
            study = cache[trial.study_id]
            resume = resuming.resume_of(session, trial, attempt)
            assign.append(assignment(study, self._plans.of(study), trial, attempt, resume))
        wanted = slots.demand(session, worker_id=worker_id)
        return SyncReply(assign=assign, stop=stop, demand=wanted, lease_s=self._lease_s, next_sync_s=NEXT_SYNC_S)


def _row(report: Report) -> ReportRow:
    noise = Noise(**report.noise.model_dump()) if report.noise is not None else None
    return ReportRow(
        report.trial, report.attempt, report.step, report.examples, report.elapsed_s, report.metrics, noise
    )


def assignment(
    study: StudyRecord, plan: Plan, trial: TrialRecord, attempt: AttemptRecord, resume: Resume | None
) -> Assignment:
    """Write down everything that the engine needs to run a trial."""
    spec = plan.spec
    examples = spec.budget.examples_per_trial
    return Assignment(
        trial=trial.id,
        attempt=attempt.attempt,
        device=attempt.device,
        stack=study.stack,
        study=study.name,
        study_id=study.id,
        number=trial.number,
        workload=spec.workload.name,
        workload_params=dict(spec.workload.params),
        params=trial.params,
        seed=trial.seed,
        examples=examples,
        micro_batch=spec.micro_batch_size(),
        rungs=sorted({max(1, examples * i // spec.evaluations) for i in range(1, spec.evaluations + 1)}),
        report_every=max(1, examples // spec.report_points),
        divergence_factor=spec.divergence_factor,
        reproducible=spec.reproducible,
        program=study.program,
        resume=resume,
    )
