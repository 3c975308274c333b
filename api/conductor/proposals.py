"""Keeping the queue filled: which trials to create next, asked of the sampler and stored in one transaction.

- A proposal is known by its family and its index in that family's sequence, both stored with its trial: a restarted
  server continues every sequence where its rows end, whatever other trials the study has.
- A proposal's trial is made once: the schema refuses a second one, e.g. from another server.
- `run_cap` is checked in the transaction that creates the trials, so it is exact.
- One round makes a bounded portion of what is missing, so that no transaction grows with a study document's numbers.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from api.conductor import failures
from api.plans import Plan
from storage import events, outcomes, studies, trials
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import NewTrial
from tuner.errors import Conflict
from tuner.search.request import AskRequest, Observation
from tuner.study.hyperparameter import Scalar
from tuner.study.space import FamilySpace
from tuner.study.states import Origin, StudyState, TrialState

MOST = 100
"""Trials created per round."""
MOST_ADAPTIVE = 16
"""The same where the sampler looks at the history, which takes it some 30 ms each."""

TOLD = (TrialState.COMPLETED, TrialState.INFEASIBLE, TrialState.FAILED)
PENDING = (TrialState.QUEUED, TrialState.RUNNING, TrialState.PAUSED)


class Outrun(Conflict):
    """The study moved on while the sampler was asked; ask again."""


@dataclass(frozen=True)
class Wanted:
    """Trials to create now: their families and indexes in order, and what to ask the sampler for them."""

    turns: list[tuple[FamilySpace, int]]
    requests: dict[str, AskRequest]
    asked_after: int
    """Trials that had ended when the history was read."""


def wanted(session: Session, *, study: StudyRecord, plan: Plan, in_flight: int) -> Wanted | None:
    """Return the next portion of the trials that `parallel` and `run_cap` leave room for, or None if there are none."""
    adaptive = plan.spec.method == "tpe"
    room = min(study.parallel - in_flight, study.run_cap - study.runs, MOST_ADAPTIVE if adaptive else MOST)
    if study.state != StudyState.RUNNING or room < 1:
        return None
    names = [family.optimizer for family in plan.families]
    turns = plan.turns(trials.next_indexes(session, study_id=study.id, families=names), room)
    history = _history(session, study.id) if adaptive else {}
    asked = {family.optimizer: family for family, _ in turns}
    requests = {
        name: _request(plan, family, [i for turn, i in turns if turn is family], history.get(name, []))
        for name, family in asked.items()
    }
    return Wanted(turns, requests, study.trials_created - in_flight)


def _request(plan: Plan, family: FamilySpace, indexes: list[int], history: list[Observation]) -> AskRequest:
    per_family = plan.spec.run_cap // len(plan.families)
    return AskRequest(
        method=plan.spec.method,
        seed=plan.spec.seed,
        family=family.optimizer,
        domains=family.swept,
        indexes=indexes,
        history=history,
        minimize=plan.minimize,
        startup=min(10, max(3, per_family // 3)),
    )


def _history(session: Session, study_id: int) -> dict[str, list[Observation]]:
    """Return what a sampler may learn from, by family: results, configurations that cannot work, what is under way."""
    found: dict[str, list[Observation]] = {}
    failing = failures.own(session, study_id=study_id)
    for trial in outcomes.of_study(session, study_id=study_id, states=[*PENDING, *TOLD]):
        seen = found.setdefault(trial.family, [])
        if trial.state == TrialState.COMPLETED:
            seen.append(Observation(trial.params, trial.value))
        elif trial.state == TrialState.INFEASIBLE or trial.id in failing:
            seen.append(Observation(trial.params, None, feasible=False))
        elif trial.state in PENDING:
            seen.append(Observation(trial.params, None))
    return found


def store(
    session: Session,
    *,
    study: StudyRecord,
    plan: Plan,
    wanted: Wanted,
    answers: dict[str, list[dict[str, Scalar]]],
    now: datetime,
) -> None:
    """Create the trials.

    Raises:
        Outrun: the study moved on meanwhile; the caller's transaction must not be committed.
    """
    first = studies.reserve_number(session, study_id=study.id, count=len(wanted.turns))
    if first is None:
        raise Outrun(f"study {study.name} moved on while {len(wanted.turns)} trials were asked for")
    left = {family: iter(configurations) for family, configurations in answers.items()}
    new = [
        _new_trial(plan, first + i, index, family.configuration(next(left[family.optimizer])), wanted.asked_after)
        for i, (family, index) in enumerate(wanted.turns)
    ]
    try:
        trials.create_all(session, study_id=study.id, trials=new, now=now)
    except Conflict as error:
        raise Outrun(f"study {study.name} moved on: {error}") from error
    changes = [Change(study.id, f"trial.{trial.state}", trial.number, {"reason": trial.reason}) for trial in new]
    events.append(session, changes=changes, now=now)


def _new_trial(plan: Plan, number: int, index: int, params: dict[str, Scalar], asked_after: int) -> NewTrial:
    batch_size = int(params["batch_size"])
    steps = plan.spec.budget.examples_per_trial // batch_size
    return NewTrial(
        number=number,
        family=str(params["optimizer"]),
        family_index=index,
        origin=Origin.PROPOSED,
        params=params,
        seed=plan.spec.seed,
        state=TrialState.QUEUED if steps else TrialState.INFEASIBLE,
        reason=None if steps else "batch_exceeds_budget",
        asked_after=asked_after,
        total_steps=steps,
        total_examples=steps * batch_size,
    )
