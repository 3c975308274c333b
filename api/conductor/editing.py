"""Changing a study while it runs, and after: the stored document and the columns that say the same change together.

A raised cap reopens a study that was completed by its cap; one that was stopped goes on when it is resumed. The caller
holds the study.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from api.conductor import budgets, pausing, target
from api.plans import Plan, stored
from storage import orders, studies, usage
from storage.events import Change
from storage.studies import StudyRecord
from tuner.errors import Fault, InvalidInput
from tuner.study.changes import changed, differences
from tuner.study.states import StudyState


def edit(
    session: Session, study: StudyRecord, now: datetime, *, plan: Plan, changes: Mapping[str, Any]
) -> list[Change]:
    """Change what is named, and reopen the study if that gives a completed one more trials.

    Raises:
        InvalidInput: every key that is unknown, cannot change or has an illegal value.
    """
    spec = changed(plan.spec, changes)
    document = spec.model_dump(mode="json")
    found = differences(study.document, document)
    found = {path: values for path, values in found.items() if path.partition(".")[0] in changes}
    if not found:
        return []
    row = {"title": spec.title, "priority": spec.priority, "run_cap": spec.run_cap, "parallel": spec.in_flight()}
    row["webhook"] = spec.webhook
    if not studies.rewrite(session, study_id=study.id, document=document, batch_groups=stored(plan.groups), **row):
        runs = studies.get(session, study.id).runs
        told = f"{spec.run_cap} given; {runs} trials count towards it already (runs), so allowed are {runs} and more"
        raise InvalidInput([Fault("run_cap", told)])
    new = replace(plan, spec=spec)
    _check_promised(session, study, new)
    events = [Change(study.id, "study.changed", None, {"changes": found})]
    if study.state == StudyState.COMPLETED and reopens(session, study, new, now):
        events += pausing.reopen(session, study, now, "the study goes on")
    return events


def _check_promised(session: Session, study: StudyRecord, plan: Plan) -> None:
    most = plan.spec.budget.examples
    if most is not None and (promised := usage.examples(session, study_id=study.id)) > most:
        told = f"{most} given; {promised} are promised to trials already, so allowed are {promised} and more"
        raise InvalidInput([Fault("budget.examples", told)])


def reopens(session: Session, study: StudyRecord, plan: Plan, now: datetime) -> bool:
    """Whether a completed study has trials left to make, or to take up again, with what its plan allows."""
    again = bool(orders.cancelled_with_study(session, study_id=study.id))
    spent = budgets.reason(session, study_id=study.id, plan=plan, in_flight=int(again), now=now)
    more = again or study.runs < plan.spec.run_cap
    return more and spent is None and not target.reached(session, study_id=study.id, plan=plan)
