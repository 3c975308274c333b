"""How a trial's attempt ends, whoever ended it: the worker's last word, a lost lease, a stop.

A trial's first terminal transition wins. Only lost, crashed and error count against `retry.max`.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from api.plans import Plan
from api.sync import resuming
from storage import attempts, programs, reports, trials
from storage.events import Change
from storage.trials import TrialRecord
from tuner.search.ranking import value_of_curve
from tuner.study.states import TrialState
from tuner.wire.sync import Finish

CHARGED = ("lost", "crashed", "error")


def finish(session: Session, *, trial: TrialRecord, plan: Plan, word: Finish, now: datetime) -> list[Change]:
    """Apply a worker's last word on an attempt; nothing happens when the attempt had ended before."""
    if word.program:
        attempts.note_program(session, trial_id=trial.id, attempt=word.attempt, program=word.program)
    ended = attempts.end(
        session, trial_id=trial.id, attempt=word.attempt, outcome=word.outcome, now=now, error=word.error
    )
    if not ended or word.attempt != trial.attempt:
        return []
    trials.advance(session, trial_id=trial.id, attempt=word.attempt, step=word.step, examples=word.examples)
    if word.weights is not None:
        resuming.keep(session, trial=trial, attempt=word.attempt, step=word.step, file=word.weights, now=now)
    if word.outcome != "finished":
        why = word.error if word.outcome == "displaced" else None
        return give_back(session, trial=trial, plan=plan, outcome=word.outcome, now=now, why=why)
    if word.infeasible is not None:
        return _end(session, trial, TrialState.INFEASIBLE, word.infeasible, now=now)
    value = word.value if word.value is not None else _value(session, trial, plan)
    if value is None:
        return _end(session, trial, *_without_value(session, trial, plan), now=now)
    return _end(session, trial, TrialState.COMPLETED, now=now, value=value)


def give_back(
    session: Session, *, trial: TrialRecord, plan: Plan, outcome: str, now: datetime, why: str | None = None
) -> list[Change]:
    """Decide what becomes of a trial whose attempt ended early: cancelled, queued again, or failed."""
    if trial.stop_why is not None:
        return _end(session, trial, TrialState.CANCELLED, trial.stop_why, now=now)
    charge = outcome in CHARGED
    if charge and trial.charged + 1 > plan.spec.retry.max:
        reason = f"{outcome} {trial.charged + 1} times; retry.max is {plan.spec.retry.max}"
        return _end(session, trial, TrialState.FAILED, reason, now=now)
    found = resuming.resumable(session, trial_id=trial.id)
    step = found.step if found is not None else 0
    examples = resuming.examples_at(trial, step)
    if not trials.requeue(session, trial_id=trial.id, charge=charge, step=step, examples=examples):
        return []
    data = {"outcome": outcome, "attempt": trial.attempt, "step": step, **({} if why is None else {"why": why})}
    changes = [Change(trial.study_id, "trial.requeued", trial.number, data)]
    if outcome == "displaced" and plan.spec.reproducible and programs.unpin(session, study_id=trial.study_id):
        changes.append(Change(trial.study_id, "study.unpinned", None, {"why": why}))
    return changes


def _end(
    session: Session,
    trial: TrialRecord,
    state: TrialState,
    reason: str | None = None,
    *,
    now: datetime,
    value: float | None = None,
) -> list[Change]:
    if not trials.end(session, trial_id=trial.id, state=state, now=now, value=value, reason=reason):
        return []
    return [Change(trial.study_id, f"trial.{state}", trial.number, {"value": value, "reason": reason})]


def _metric_values(session: Session, trial: TrialRecord, name: str) -> Sequence[float]:
    rows = reports.effective_rows(session, trial_ids=[trial.id]).get(trial.id, [])
    return [row.metrics[name] for row in rows if name in row.metrics]


def _value(session: Session, trial: TrialRecord, plan: Plan) -> float | None:
    metric = plan.spec.metric
    return value_of_curve(_metric_values(session, trial, metric.name), at=metric.at, minimize=plan.minimize)


def _without_value(session: Session, trial: TrialRecord, plan: Plan) -> tuple[TrialState, str]:
    metric = plan.spec.metric.name
    if _metric_values(session, trial, metric):
        return TrialState.INFEASIBLE, "diverged"
    rows = reports.effective_rows(session, trial_ids=[trial.id]).get(trial.id, [])
    known = sorted({name for row in rows for name in row.metrics})
    return TrialState.FAILED, f"the workload reported no {metric!r}; it reported {', '.join(known) or 'nothing'}"
