"""Many finished trials straight in the database, as a study that has run for long has them."""

import random
from datetime import UTC, datetime

from sqlalchemy import update

from api.plans import Plans
from storage import events, studies, trials
from storage import tables as t
from storage.database import Database
from storage.events import Change
from storage.trials import NewTrial
from tuner.search import independent
from tuner.search.request import Search
from tuner.study.states import Origin, TrialState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def finish_trials(database: Database, plans: Plans, study_id: int, count: int, *, seed: int = 0) -> None:
    """Give a study without trials `count` completed ones, one of ten infeasible, with their events."""
    with database.write() as session:
        plan = plans.of(studies.get(session, study_id))
        first = studies.reserve_number(session, study_id=study_id, count=count)
        assert first == 0
        draw, new = random.Random(seed), []
        for number, (family, index) in enumerate(plan.turns([0] * len(plan.families), count)):
            search = Search("random", seed, family.optimizer, family.swept, True, 0)
            params = family.configuration(independent.propose(search, index))
            new.append(
                NewTrial(
                    number, family.optimizer, params, 0, TrialState.INFEASIBLE, "diverged", number, 1, 32,
                    plan.stack(params), Origin.PROPOSED, index,
                )
            )  # fmt: skip
        ids = trials.create_all(session, study_id=study_id, trials=new, now=NOW)
        completed = [trial_id for trial_id in ids if draw.random() < 0.9]
        session.execute(
            update(t.Trial),
            [
                {"id": trial_id, "state": TrialState.COMPLETED, "value": draw.random(), "reason": None}
                for trial_id in completed
            ],
        )
        changes = [Change(study_id, f"trial.{TrialState.COMPLETED}", trial.number) for trial in new]
        events.append(session, changes=changes, now=NOW)
