"""Configurations that users give: each becomes a trial of its own, counted in `run_cap` and trained before proposals.

A batch size that no stack of the study takes gets a micro-batch; it is written into the study's groups, so that every
server and worker knows of it. Nothing else of the study changes, and no trial its stack. The caller holds the study.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from api.conductor import budgets
from api.plans import Plan, Plans, stored
from storage import studies, trials
from storage.events import Change
from storage.studies import ENDED, StudyRecord
from storage.trials import NewTrial, TrialRecord
from tuner.errors import Conflict, Fault, InvalidInput, InvalidTransition
from tuner.study.given import Given, no_group
from tuner.study.hyperparameter import Scalar
from tuner.study.micro_batch import Group, joined
from tuner.study.spec import StudySpec
from tuner.study.states import Origin, StudyState, TrialState


def check_key(key: str | None) -> None:
    """Raise `InvalidInput` unless an Idempotency-Key may be stored."""
    if key is not None and not 1 <= len(key) <= 200:
        raise InvalidInput([Fault("Idempotency-Key", "has 1 to 200 characters")])


def earlier(session: Session, study: StudyRecord, given: Given, key: str | None) -> TrialRecord | None:
    """Return the trial that an earlier request with this key made.

    Raises:
        Conflict: it was another configuration.
    """
    found = None if key is None else trials.find_by_idempotency_key(session, study_id=study.id, idempotency_key=key)
    if found is not None and found.params != given.params:
        raise Conflict(f"Idempotency-Key {key!r} was used with another configuration, of trial {found.number}")
    return found


def groups_with(
    spec: StudySpec, groups: list[Group], params: Mapping[str, Scalar], path: str = "params"
) -> list[Group]:
    """Return a study's groups, with that of a given configuration. Raises `InvalidInput` if it can have none."""
    if spec.external:
        return groups
    size = int(params["batch_size"])
    try:
        return joined(groups, size)
    except ValueError as error:
        raise no_group(size, groups, path) from error


def enqueue(
    session: Session, study: StudyRecord, now: datetime, *, plans: Plans, given: Given, key: str | None
) -> list[Change]:
    """Make a trial of a configuration that a user gave.

    Raises:
        Conflict: the study has ended, or its cap is used up.
    """
    if study.state in ENDED and study.state != StudyState.COMPLETED:
        raise InvalidTransition(f"the study is {study.state}; resume it first")
    plan = plans.of(study)
    groups = groups_with(plan.spec, plan.groups, given.params)
    number = studies.reserve_number(session, study_id=study.id, origin=Origin.ENQUEUED)
    if number is None:
        full = f"all {study.run_cap} trials of run_cap exist; raise run_cap first"
        told = full if study.runs >= study.run_cap else f"{study.reason}; raise its budget, or clone it"
        raise Conflict(f"the study takes no more configurations: {told}")
    if groups != plan.groups:
        plan = plans.made(plan.spec, groups)
        studies.rewrite(session, study_id=study.id, document=study.document, batch_groups=stored(groups))
    trials.create(session, study_id=study.id, trial=new_trial(plan, number, given, key), now=now)
    budgets.check_examples(session, study_id=study.id, plan=plan)
    return [Change(study.id, f"trial.{TrialState.QUEUED}", number, {"origin": Origin.ENQUEUED})]


def enqueue_all(
    session: Session, study: StudyRecord, now: datetime, *, plan: Plan, given: Sequence[Given]
) -> list[Change]:
    """Make the trials of the configurations that a new study's document gives: the first numbers."""
    if not given:
        return []
    first = studies.reserve_number(session, study_id=study.id, count=len(given), origin=Origin.ENQUEUED)
    assert first == 0, "a new study has no trials, and its cap was checked"
    new = [new_trial(plan, number, one, None) for number, one in enumerate(given)]
    trials.create_all(session, study_id=study.id, trials=new, now=now)
    data = {"origin": Origin.ENQUEUED}
    return [Change(study.id, f"trial.{TrialState.QUEUED}", trial.number, data) for trial in new]


def new_trial(plan: Plan, number: int, given: Given, key: str | None) -> NewTrial:
    """Return the row of a trial with a given configuration."""
    steps, examples = plan.length(given.params)
    return NewTrial(
        number=number,
        family=given.family,
        params=given.params,
        seed=plan.spec.seed,
        state=TrialState.QUEUED,
        reason=None,
        asked_after=0,
        total_steps=steps,
        total_examples=examples,
        stack=plan.stack(given.params),
        origin=Origin.ENQUEUED,
        idempotency_key=key,
    )
