"""What failed trials tell: which configurations fail by themselves, and whether a study should give up."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy.orm import Session

from api.plans import Plan
from storage import outcomes, trials, workers
from storage.studies import StudyRecord
from tuner.study.failure import RESULTS, gives_up, mistake_of_loading, own_failure
from tuner.study.states import TrialState


def own(session: Session, *, study_id: int, trial_ids: Collection[int]) -> set[int]:
    """Return the ids of those failed trials whose configurations fail by themselves."""
    failed = outcomes.failed_attempts(session, study_id=study_id, trial_ids=trial_ids)
    return {trial_id for trial_id, attempts in failed.items() if own_failure(attempts)}


def verdict(session: Session, *, study: StudyRecord, plan: Plan, in_flight: int, seen_since: datetime) -> str | None:
    """Return why a study should end as failed, or None; workers not seen since a time are gone."""
    if outcomes.any_in(session, study_id=study.id, states=RESULTS):
        return None  # the usual case costs one look, however many trials there are
    # A study that a user let go on has as many failures left as before the first.
    counts = outcomes.count_by_state(session, study_id=study.id, failed_after=study.reopened_at)
    if counts.get(TrialState.QUEUED, 0) and not counts.get(TrialState.RUNNING, 0):
        mistake = _mistake_of_loading(session, study=study, plan=plan, seen_since=seen_since)
        if mistake is not None:
            return mistake
    over = in_flight == 0 and study.runs >= study.run_cap
    max_failed = plan.spec.budget.max_failed
    if gives_up(counts, max_failed, over=over, reasons=()) is None:
        return None
    attempts = outcomes.failed_attempts(session, study_id=study.id)
    failed = trials.of_study(session, study_id=study.id, states=[TrialState.FAILED], ended_after=study.reopened_at)
    reasons = [own_failure(attempts.get(trial.id, ())) or trial.reason or "" for trial in failed]
    return gives_up(counts, max_failed, over=over, reasons=reasons)


def _mistake_of_loading(session: Session, *, study: StudyRecord, plan: Plan, seen_since: datetime) -> str | None:
    """Return why every device that is here and knows the study's workload failed to load it; each tries once."""
    said = outcomes.not_loaded(session, study_id=study.id)
    if not said:
        return None
    name = plan.spec.workload.name
    here = [
        (worker.id, device["device"])
        for worker in workers.recent(session)
        if worker.last_seen >= seen_since and any(workload["name"] == name for workload in worker.workloads)
        for device in worker.devices
    ]
    return mistake_of_loading([said[place] for place in here]) if all(place in said for place in here) else None
