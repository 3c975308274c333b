"""Keeping the queue filled: which trials to create next, asked of the sampler and stored in one transaction.

Trial number n belongs to family n mod F, and is that family's proposal n div F: a restarted server continues where the
rows end. Budgets are checked in the transaction that creates the trial, so they are exact.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from api.plans import Plan
from storage import events, studies, trials
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import NewTrial, TrialRecord
from tuner.errors import Conflict
from tuner.search.request import AskRequest, Observation
from tuner.study.hyperparameter import Scalar
from tuner.study.states import StudyState, TrialState


class Outrun(Conflict):
    """The study moved on while the sampler was asked; ask again."""


def wanted_numbers(session: Session, *, study: StudyRecord) -> range:
    """Return the numbers of the trials to create now: as many as `parallel` and `run_cap` leave room for."""
    if study.state != StudyState.RUNNING:
        return range(0)
    room = study.parallel - trials.count_in_flight(session, study_id=study.id)
    return range(study.trials_created, min(study.trials_created + max(room, 0), study.run_cap))


def requests(plan: Plan, *, numbers: range, known: list[TrialRecord]) -> dict[str, AskRequest]:
    """Build one request per family that owns one of the numbers."""
    found: dict[str, AskRequest] = {}
    per_family = plan.spec.run_cap // len(plan.families)
    for number in numbers:
        family, index = plan.family_of(number)
        if family.optimizer not in found:
            found[family.optimizer] = AskRequest(
                method=plan.spec.method,
                seed=plan.spec.seed,
                family=family.optimizer,
                domains=family.swept,
                indexes=[],
                history=_history(plan, known, family.optimizer),
                minimize=plan.minimize,
                startup=min(10, max(3, per_family // 3)),
            )
        found[family.optimizer].indexes.append(index)
    return found


def _history(plan: Plan, known: list[TrialRecord], family: str) -> list[Observation]:
    if plan.spec.method != "tpe":
        return []
    history = []
    for trial in known:
        if trial.family != family or trial.state in (TrialState.FAILED, TrialState.CANCELLED):
            continue
        feasible = trial.state != TrialState.INFEASIBLE
        value = trial.value if trial.state == TrialState.COMPLETED else None
        history.append(Observation(trial.params, value, feasible))
    return history


def store(
    session: Session,
    *,
    study: StudyRecord,
    plan: Plan,
    numbers: range,
    answers: dict[str, list[dict[str, Scalar]]],
    asked_after: int,
    now: datetime,
) -> None:
    """Create the trials.

    Raises:
        Outrun: the study moved on meanwhile; the caller's transaction must not be committed.
    """
    changes: list[Change] = []
    left = {family: iter(configurations) for family, configurations in answers.items()}
    for number in numbers:
        if studies.reserve_number(session, study_id=study.id) != number:
            raise Outrun(f"study {study.name} moved on while trial {number} was asked for")
        family, _ = plan.family_of(number)
        trial = _new_trial(plan, number, family.configuration(next(left[family.optimizer])), asked_after)
        trials.create(session, study_id=study.id, trial=trial, now=now)
        changes.append(Change(study.id, f"trial.{trial.state}", number, {"reason": trial.reason}))
    events.append(session, changes=changes, now=now)


def _new_trial(plan: Plan, number: int, params: dict[str, Scalar], asked_after: int) -> NewTrial:
    batch_size = int(params["batch_size"])
    steps = plan.spec.budget.examples_per_trial // batch_size
    return NewTrial(
        number=number,
        family=str(params["optimizer"]),
        params=params,
        seed=plan.spec.seed,
        state=TrialState.QUEUED if steps else TrialState.INFEASIBLE,
        reason=None if steps else "batch_exceeds_budget",
        asked_after=asked_after,
        total_steps=steps,
        total_examples=steps * batch_size,
    )
