"""Stopping one trial, and trying one again. The caller holds its study."""

from datetime import datetime

from sqlalchemy.orm import Session

from api.conductor import budgets, target
from api.conductor.pausing import queue_again
from api.plans import Plan
from storage import checkpoints, orders, studies, trials
from storage.events import Change
from storage.studies import ENDED, StudyRecord
from tuner.errors import InvalidTransition
from tuner.study.states import RETRIED, TERMINAL, Order, OrderedBy, StudyState, TrialState


def stop(session: Session, study: StudyRecord, now: datetime, *, number: int) -> list[Change]:
    """Cancel a queued or paused trial at once, or tell a running one to end.

    Raises:
        InvalidTransition: it has ended already.
    """
    why, by = "stopped by a user", OrderedBy.USER
    orders.lock(session, study_id=study.id, number=number)
    trial = trials.get(session, study_id=study.id, number=number)
    if trial.state in TERMINAL:
        raise InvalidTransition(f"trial {number} is {trial.state} already; only one that waits or runs can stop")
    if orders.cancel_waiting(session, study_id=study.id, why=why, by=by, now=now, number=number):
        return [Change(study.id, f"trial.{TrialState.CANCELLED}", number, {"reason": why})]
    told = orders.give(session, study_id=study.id, order=Order.STOP, why=why, by=by, number=number)
    return [Change(study.id, "trial.stopping", number, {"reason": why}) for number in told]


def retry(session: Session, study: StudyRecord, now: datetime, *, plan: Plan, number: int) -> list[Change]:
    """Queue a failed, cancelled or infeasible trial again; a study that was completed or failed goes on.

    An infeasible one begins from zero: from the state before it diverged it would do so again.

    Raises:
        InvalidTransition: the trial is in another state, or its study was stopped or has reached its target.
    """
    orders.lock(session, study_id=study.id, number=number)
    trial = trials.get(session, study_id=study.id, number=number)
    if trial.state not in RETRIED:
        allowed = ", ".join(sorted(RETRIED))
        raise InvalidTransition(f"trial {number} is {trial.state}; only one that is {allowed} can be tried again")
    if trial.total_steps == 0 and not plan.spec.external:
        raise InvalidTransition(f"trial {number} cannot take a step: {trial.reason}")
    if study.state == StudyState.STOPPED:
        raise InvalidTransition("the study is stopped; resume it first")
    if study.state in ENDED and target.reached(session, study_id=study.id, plan=plan):
        raise InvalidTransition(f"the study has ended: {study.reason}")
    if study.state in ENDED and (spent := budgets.reason(session, study_id=study.id, plan=plan, in_flight=1, now=now)):
        raise InvalidTransition(f"the study has ended: {spent}; raise it first")
    if trial.state == TrialState.INFEASIBLE:
        checkpoints.forget_states(session, trial_id=trial.id)
    changes = queue_again(session, [trial], "tried again by a user", charged=0)
    budgets.check_examples(session, study_id=study.id, plan=plan)
    studies.reopen(session, study_id=study.id, old=study.state, now=now)
    if study.state in ENDED:
        changes.insert(0, Change(study.id, "study.running", None, {"was": study.state}))
    return changes
