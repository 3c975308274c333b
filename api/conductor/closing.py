"""Ending a study: what waits is cancelled, and what runs is told to stop."""

from datetime import datetime

from sqlalchemy.orm import Session

from storage import orders, studies
from storage.events import Change
from storage.studies import StudyRecord
from tuner.study.states import Order, OrderedBy, StudyState, TrialState


def close(
    session: Session, *, study: StudyRecord, state: StudyState, reason: str | None, why: str, now: datetime
) -> list[Change]:
    """Move a study to its end; `why` is what its trials are told. Trials are locked before their study.

    No trial is missed: none is created meanwhile, and none moves between queue and workers.

    Raises:
        InvalidTransition: the study cannot end like this, or ended meanwhile.
    """
    studies.hold(session, study_id=study.id)
    orders.lock_open(session, study_id=study.id)
    changes = [Change(study.id, f"study.{state}", None, {"reason": reason})]
    by = OrderedBy.STUDY
    for number in orders.cancel_waiting(session, study_id=study.id, why=why, by=by, now=now):
        changes.append(Change(study.id, f"trial.{TrialState.CANCELLED}", number, {"reason": why}))
    orders.give(session, study_id=study.id, order=Order.STOP, why=why, by=by)
    studies.set_state(session, study_id=study.id, old=study.state, new=state, reason=reason, now=now)
    return changes
