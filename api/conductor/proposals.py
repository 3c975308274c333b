"""Keeping the queue filled: which trials to create next, asked of the sampler and stored in one transaction.

- A proposal is known by its family and its index in that family's sequence, both stored with its trial: a restarted
  server continues every sequence where its rows end, whatever other trials the study has.
- A proposal's trial is made once: the schema refuses a second one, e.g. from another server.
- `run_cap` is checked in the transaction that creates the trials, so it is exact.
- What an adaptive proposal was shown can be worked out from the rows: of the trials with smaller numbers, those that
  were among the first `asked_after` of the study to end had ended, the others were under way (`histories.py` says which
  of them it was shown).
- One round makes a bounded portion of what is missing, so that no transaction grows with a study document's numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from api.conductor import budgets
from api.conductor.histories import Histories, evenly
from api.plans import Plan
from storage import events, studies, trials
from storage.events import Change
from storage.studies import StudyRecord
from storage.trials import NewTrial
from tuner.errors import Conflict
from tuner.search.request import AskRequest, Observation, Search
from tuner.study.hyperparameter import Scalar
from tuner.study.space import FamilySpace
from tuner.study.states import Origin, StudyState, TrialState

MOST = 400
"""Trials created per round."""
MOST_ADAPTIVE = 16
"""The same where the sampler looks at the history, which takes it some 30 ms each."""


class Outrun(Conflict):
    """The study moved on while the sampler was asked; ask again."""


@dataclass(frozen=True)
class Wanted:
    """Trials to create now: their families and indexes in order, and what to ask the sampler for them."""

    turns: list[tuple[FamilySpace, int]]
    requests: dict[str, AskRequest]
    first: int
    """The number that the first of them gets."""
    asked_after: int
    """Trials that had ended when the history was read."""


def wanted(session: Session, *, study: StudyRecord, plan: Plan, in_flight: int, histories: Histories) -> Wanted | None:
    """Return the next portion of the trials that `parallel` and `run_cap` leave room for, or None if there are none."""
    adaptive = plan.spec.learns
    room = min(study.run_cap - study.runs, MOST_ADAPTIVE if adaptive else MOST)
    if study.state == StudyState.RUNNING and room > 0:
        room = min(room, _missing(session, study, in_flight))
    if study.state == StudyState.RUNNING and room > 0:
        allowed = budgets.room(session, study_id=study.id, plan=plan)
        room = room if allowed is None else min(room, allowed)
    if study.state != StudyState.RUNNING or room < 1:
        return None
    names = [family.optimizer for family in plan.families]
    indexes = trials.next_indexes(session, study_id=study.id, families=names)
    turns = plan.turns(indexes, room)
    ended = study.trials_created - in_flight
    requests = {}
    for family, next_index in zip(plan.families, indexes, strict=True):
        asked = [index for turn, index in turns if turn is family]
        history: Mapping[int, Observation] = {}
        if asked and adaptive:
            sampled = evenly(next_index, ended // len(names))
            history = histories.of(
                session, study_id=study.id, family=family.optimizer, minimize=plan.minimize, sampled=sampled
            )
        if asked:
            requests[family.optimizer] = AskRequest(_search(study, plan, family), asked, history)
    return Wanted(turns, requests, study.trials_created, ended)


def _missing(session: Session, study: StudyRecord, in_flight: int) -> int:
    """Return how many more trials should be in flight.

    Without a `parallel` as many wait as run, and `MOST` at least: workers with any room find their slots' next trials,
    however wide they become. The queue is filled when half of that is left.
    """
    if study.parallel is not None:
        return study.parallel - in_flight
    queued = trials.count_queued(session, study_id=study.id)
    wanted = max(MOST, in_flight - queued)
    return wanted - queued if 2 * queued <= wanted else 0


def _search(study: StudyRecord, plan: Plan, family: FamilySpace) -> Search:
    return Search(
        method=plan.spec.method,
        seed=plan.spec.seed,
        family=family.optimizer,
        domains=family.swept,
        minimize=plan.minimize,
        startup=plan.startup(len(plan.families)),
        study=study.id,
    )


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
    studies.hold(session, study_id=study.id)
    first = studies.reserve_number(session, study_id=study.id, count=len(wanted.turns))
    if first != wanted.first:
        raise Outrun(f"study {study.name} moved on while {len(wanted.turns)} trials were asked for")
    left = {family: iter(configurations) for family, configurations in answers.items()}
    new = [
        _new_trial(plan, family, wanted.first + i, index, next(left[family.optimizer]), wanted.asked_after)
        for i, (family, index) in enumerate(wanted.turns)
    ]
    try:
        trials.create_all(session, study_id=study.id, trials=new, now=now)
    except Conflict as error:
        raise Outrun(f"study {study.name} moved on: {error}") from error
    try:
        budgets.check_examples(session, study_id=study.id, plan=plan)
    except Conflict as error:
        raise Outrun(f"study {study.name} moved on: {error}") from error
    changes = [Change(study.id, f"trial.{trial.state}", trial.number, {"reason": trial.reason}) for trial in new]
    events.append(session, changes=changes, now=now)


def _new_trial(
    plan: Plan, family: FamilySpace, number: int, index: int, chosen: dict[str, Scalar], asked_after: int
) -> NewTrial:
    params = family.configuration(chosen)
    steps, examples = plan.length(params)
    fits = steps > 0 or plan.spec.external
    return NewTrial(
        number=number,
        family=family.optimizer,
        family_index=index,
        origin=Origin.PROPOSED,
        params=params,
        seed=plan.spec.seed,
        state=TrialState.QUEUED if fits else TrialState.INFEASIBLE,
        reason=None if fits else "batch_exceeds_budget",
        asked_after=asked_after,
        total_steps=steps,
        total_examples=examples,
        stack=plan.stack(params),
    )
