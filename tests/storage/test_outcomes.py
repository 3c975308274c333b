"""What became of trials: the attempts of failed ones with the end of their tracebacks, and what is there at all."""

import random

import pytest
import stored_leases
from sqlalchemy import update
from stored_leases import NOW

from storage import outcomes, studies, trials, workers
from storage import tables as t
from storage.database import Database
from storage.outcomes import ERROR_END
from storage.trials import NewTrial
from tuner.study.states import Origin, TrialState


def test_failed_attempts_keep_the_end_of_their_tracebacks(database: Database) -> None:
    long = "frame\n" * ERROR_END + "ValueError: boom"
    with database.write() as session:
        study = studies.create(
            session, name="s", title="", document={}, run_cap=5, parallel=4, idempotency_key=None, now=NOW
        ).id
        worker = workers.register(session, worker_session="x", name="w", devices=[], workloads=[], version="", now=NOW)
        new = [NewTrial(n, "sgd", {"lr": n}, 0, TrialState.QUEUED, None, 0, 10, 320, "k") for n in range(3)]
        one, other, queued = trials.create_all(session, study_id=study, trials=new, now=NOW)
        for trial, outcome, error in (
            (one, "error", long), (one, "drained", None), (one, "lost", None), (other, "error", "short"),
            (queued, "error", "tried again"),
        ):  # fmt: skip
            stored_leases.grant(session, trial, worker)
            stored_leases.take_back(session, trial, outcome, error)
        assert not outcomes.any_in(session, study_id=study, states=[TrialState.FAILED])
        session.execute(update(t.Trial).where(t.Trial.id.in_([one, other])).values(state=TrialState.FAILED))
    with database.read() as session:
        found = outcomes.failed_attempts(session, study_id=study)
        assert {trial: [outcome for outcome, _ in attempts] for trial, attempts in found.items()} == {
            one: ["error", "lost"],
            other: ["error"],
        }
        end = found[one][0][1]
        assert end is not None and end.endswith("\nValueError: boom") and len(end) <= ERROR_END + 1
        assert found[other][0][1] == "short"
        assert outcomes.count_by_state(session, study_id=study) == {TrialState.FAILED: 2, TrialState.QUEUED: 1}
        assert outcomes.any_in(session, study_id=study, states=[TrialState.FAILED])
        assert set(outcomes.failed_attempts(session, study_id=study, trial_ids=[other, queued])) == {other}


@pytest.mark.parametrize("minimize", [True, False])
def test_the_trials_that_a_sampler_is_shown(database: Database, minimize: bool) -> None:
    """Against the selection worked out from all rows."""
    draw, part = random.Random(0), 10
    ended = [TrialState.COMPLETED] * 4 + [TrialState.INFEASIBLE, TrialState.FAILED, TrialState.CANCELLED]
    states = [draw.choice(ended) for _ in range(300)] + draw.choices(list(outcomes.PENDING), k=40)
    with database.write() as session:
        study = studies.create(
            session, name="s", title="", document={}, run_cap=500, parallel=4, idempotency_key=None, now=NOW
        ).id
        new = [
            NewTrial(
                n, draw.choice(["sgd", "adamw"]), {"lr": n}, 0, TrialState.QUEUED, None, 0, 10, 320, "k",
                *([] if n % 7 == 0 else [Origin.PROPOSED, n]),
            )
            for n in range(len(states))
        ]  # fmt: skip
        trials.create_all(session, study_id=study, trials=new, now=NOW)
        values = [float(draw.randrange(40)) if state == TrialState.COMPLETED else None for state in states]
        for number, (state, value) in enumerate(zip(states, values, strict=True)):
            here = update(t.Trial).where(t.Trial.number == number)
            session.execute(here.values(state=state, value=value))
    own = [trial.number for trial in new if trial.family == "sgd"]
    told = [n for n in own if states[n] in outcomes.TOLD]
    completed = [n for n in own if states[n] == TrialState.COMPLETED]
    sign = 1 if minimize else -1
    sampled = range(0, 300, 16)
    expected = {
        *sorted(completed, key=lambda n: (sign * (values[n] or 0.0), sign * n))[:part],
        *told[-part:],
        *(n for n in own if n in sampled and n % 7 and states[n] in (*outcomes.TOLD, *outcomes.PENDING)),
        *[n for n in own if states[n] in outcomes.PENDING][-part:],
    }
    with database.read() as session:
        seen = outcomes.shown(session, study_id=study, family="sgd", minimize=minimize, part=part, sampled=sampled)
        assert seen == [(n, states[n], values[n]) for n in sorted(expected)]
        some = [seen[0].number, seen[-1].number]
        read = outcomes.configurations(session, study_id=study, numbers=some)
        assert {n: params for n, (_, params) in read.items()} == {n: {"lr": n} for n in some}
