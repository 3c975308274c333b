"""Conversion of stored values to API views."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from api.plans import Plan
from storage import attempts, trials, workers
from storage.attempts import AttemptRecord
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from storage.workers import WorkerRecord
from tuner.study.program import fingerprint
from tuner.wire.sync import DeviceInfo
from tuner.wire.views import StudyView, TrialView, WorkerView


def trial_views(session: Session, study: StudyRecord, records: Sequence[TrialRecord]) -> list[TrialView]:
    """Show trials, with their current attempt's worker and error."""
    current = attempts.latest(session, trial_ids=[record.id for record in records])
    names = workers.by_ids(session, ids={attempt.worker_id for attempt in current.values()})
    return [_trial_view(study, record, current.get(record.id), names) for record in records]


def trial_view(session: Session, study: StudyRecord, record: TrialRecord) -> TrialView:
    """Show one trial."""
    return trial_views(session, study, [record])[0]


def _trial_view(
    study: StudyRecord, record: TrialRecord, attempt: AttemptRecord | None, names: dict[int, WorkerRecord]
) -> TrialView:
    return TrialView(
        study=study.name,
        number=record.number,
        state=record.state,
        origin=record.origin,
        optimizer=record.family,
        params=record.params,
        seed=record.seed,
        replicate=record.replicate,
        value=record.value,
        reason=record.reason or record.order_why,
        order=record.order,
        step=record.step,
        examples=record.examples,
        total_steps=record.total_steps or None,
        total_examples=record.total_examples or None,
        attempt=record.attempt,
        worker=names[attempt.worker_id].name if attempt else None,
        program=attempt.program if attempt else None,
        fingerprint=attempt.fingerprint if attempt else None,
        error=attempt.error if attempt else None,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def figure_view(session: Session, study: StudyRecord, plan: Plan) -> StudyView:
    """Show of a study what figures need: its document's words and its best trial."""
    best = trials.best(session, study_id=study.id, minimize=plan.minimize)
    shown = trial_view(session, study, best) if best else None
    return StudyView.model_validate({**study_fields(study, plan), "counts": {}, "examples_done": 0, "best": shown})


def study_fields(study: StudyRecord, plan: Plan) -> dict[str, object]:
    """Return the fields of a view that the study's own row gives."""
    spec = plan.spec
    return {
        "id": study.id,
        "name": study.name,
        "title": study.title,
        "note": spec.note,
        "tags": spec.tags,
        "state": study.state,
        "reason": study.reason,
        "workload": spec.workload.name,
        "metric": spec.metric.name,
        "goal": spec.metric.goal,
        "target": spec.metric.target,
        "method": spec.method,
        "optimizers": [family.optimizer for family in plan.families],
        "swept": {family.optimizer: list(family.swept) for family in plan.families},
        "run_cap": study.run_cap,
        "parallel": "automatic" if study.parallel is None else study.parallel,
        "priority": study.priority,
        "examples_per_trial": spec.budget.examples_per_trial,
        "reproducible": spec.reproducible,
        "program": study.program,
        "fingerprint": fingerprint(study.program) if study.program else None,
        "revision": study.revision,
        "created_at": study.created_at,
        "started_at": study.started_at,
        "finished_at": study.finished_at,
    }


def worker_view(worker: WorkerRecord, *, held: int, now: datetime, lease_s: float) -> WorkerView:
    """Show a worker session. A session without leases that no longer syncs is gone."""
    silent = now - worker.last_seen > timedelta(seconds=lease_s)
    state = ("lost" if held else "gone") if silent else ("busy" if held else "idle")
    quarantined = worker.quarantined_until is not None and worker.quarantined_until > now
    if not silent and (worker.draining or quarantined):
        state = "draining" if worker.draining else "quarantined"
    return WorkerView.model_validate(
        {
            "id": worker.id,
            "name": worker.name,
            "state": state,
            "why": worker.quarantine_why if quarantined else None,
            "quarantined_until": worker.quarantined_until if quarantined else None,
            "devices": [DeviceInfo.model_validate(device) for device in worker.devices],
            "workloads": [workload["name"] for workload in worker.workloads],
            "held": held,
            "version": worker.version,
            "first_seen": worker.first_seen,
            "last_seen": worker.last_seen,
        }
    )
