"""Pausing a study, and letting one go on that was paused or stopped.

- A paused study leases nothing and proposes nothing. Its running trials are ordered to pause: their workers store their
  states and let go of them. What waits stays in the queue.
- Resuming withdraws the order from those that have not obeyed it, and queues the others where they stopped.
- Resuming a stopped (or failed) study undoes its end: what that cancelled is queued again, from its last checkpoint.
  What a user cancelled trial by trial stays cancelled.

The caller holds the study (`studies.hold`); trials are locked before its row.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.orm import Session

from storage import attempts, checkpoints, orders, studies, trials
from storage.events import Change
from storage.studies import ENDED, StudyRecord
from storage.trials import TrialRecord
from tuner.errors import InvalidTransition
from tuner.study.states import Order, OrderedBy, StudyState, TrialState

LOST = "no checkpoint of it is stored, so it begins from zero"


def pause(session: Session, study: StudyRecord, now: datetime) -> list[Change]:
    """Pause a running study. Pausing it twice changes nothing.

    Raises:
        InvalidTransition: it has ended.
    """
    if study.state == StudyState.PAUSED:
        return []
    if study.state in ENDED:
        raise InvalidTransition(f"the study is {study.state}; only a running one can be paused")
    why, by = "the study was paused", OrderedBy.STUDY
    orders.lock_open(session, study_id=study.id)
    told = orders.give(session, study_id=study.id, order=Order.PAUSE, why=why, by=by)
    reason = "paused by a user"
    studies.set_state(session, study_id=study.id, old=study.state, new=StudyState.PAUSED, reason=reason, now=now)
    changes = [Change(study.id, "study.paused", None, {"reason": reason})]
    return changes + [Change(study.id, "trial.pausing", number, {"reason": why}) for number in told]


def resume(session: Session, study: StudyRecord, now: datetime) -> list[Change]:
    """Let a paused, stopped or failed study go on. Resuming a running one changes nothing.

    Raises:
        InvalidTransition: it is completed.
    """
    if study.state == StudyState.RUNNING:
        return []
    if study.state == StudyState.COMPLETED:
        more = f"raise run_cap above {study.runs} to have more trials"
        told = more if study.reason is None else "raise the budget that is used up, or clone it"
        raise InvalidTransition(f"the study is completed{f': {study.reason}' if study.reason else ''}; {told}")
    if study.state == StudyState.PAUSED:
        orders.lock_open(session, study_id=study.id)
        again = orders.paused(session, study_id=study.id)
        studies.set_state(session, study_id=study.id, old=study.state, new=StudyState.RUNNING, reason=None, now=now)
        withdrawn = orders.withdraw(session, study_id=study.id, order=Order.PAUSE)
    else:
        return reopen(session, study, now, "the study was resumed")
    changes = [Change(study.id, "study.running", None, {"was": study.state})]
    changes += [Change(study.id, "trial.resumed", number, {"why": "the pause was withdrawn"}) for number in withdrawn]
    return changes + queue_again(session, again, "the study was resumed")


def reopen(session: Session, study: StudyRecord, now: datetime, why: str) -> list[Change]:
    """Let a study go on that had ended, with the trials that its end cancelled."""
    _take_back(session, study, now)
    again = orders.cancelled_with_study(session, study_id=study.id)
    studies.reopen(session, study_id=study.id, old=study.state, now=now)
    return [Change(study.id, "study.running", None, {"was": study.state}), *queue_again(session, again, why)]


def queue_again(
    session: Session, again: Sequence[TrialRecord], why: str, *, charged: int | None = None
) -> list[Change]:
    """Queue trials that are in one state, paused or ended, each from its last checkpoint.

    `charged` replaces the number of attempts that count against `retry.max`.
    """
    if not again:
        return []
    begun = [trial.id for trial in again if trial.attempt]
    states = checkpoints.usable(session, trial_ids=begun)
    started = {key for key, attempt in attempts.latest(session, trial_ids=begun).items() if attempt.fingerprint}
    changes: list[Change] = []
    queued: list[TrialRecord] = []
    for trial in again:
        step = states[trial.id].step if trial.id in states else 0
        new = replace(trial, state=TrialState.QUEUED, value=None, reason=None, ordered_by=None, finished_at=None)
        queued.append(replace(new.at_step(step), charged=trial.charged if charged is None else charged))
        data = {"why": why, "attempt": trial.attempt, "step": step}
        changes.append(Change(trial.study_id, "trial.requeued", trial.number, data))
        if not step and trial.id in started:
            lost = {"attempt": trial.attempt, "why": LOST}
            changes.append(Change(trial.study_id, "trial.restarted", trial.number, lost))
    orders.queue_again(session, trials=queued, old=again[0].state)
    return changes


def _take_back(session: Session, study: StudyRecord, now: datetime) -> None:
    """End the attempts that were told to stop and have not obeyed: their trials are cancelled, to be queued again.

    The order is not withdrawn, since a worker that was told has dropped the trial and will not say so.
    """
    pairs = [
        (attempt, trial)
        for attempt, trial in attempts.leases(session, study_ids=[study.id], lock=True)
        if trial.order is Order.STOP and trial.ordered_by is OrderedBy.STUDY
    ]
    attempts.save(session, attempts=[replace(attempt, outcome="stopped", ended_at=now) for attempt, _ in pairs])
    ended = [replace(trial, state=TrialState.CANCELLED, reason=trial.order_why, finished_at=now) for _, trial in pairs]
    trials.save(session, trials=[replace(trial, order=None, order_why=None) for trial in ended])
