"""What became of trials: the attempts of failed ones with the end of their tracebacks, and what is there at all."""

import stored_leases
from sqlalchemy import update
from stored_leases import NOW

from storage import outcomes, studies, trials, workers
from storage import tables as t
from storage.database import Database
from storage.outcomes import ERROR_END
from storage.trials import NewTrial
from tuner.study.states import TrialState


def test_failed_attempts_keep_the_end_of_their_tracebacks(database: Database) -> None:
    long = "frame\n" * ERROR_END + "ValueError: boom"
    with database.write() as session:
        study = studies.create(
            session, name="s", title="", document={}, stack="k", run_cap=5, parallel=4, idempotency_key=None, now=NOW
        ).id
        worker = workers.register(session, worker_session="x", name="w", devices=[], workloads=[], version="", now=NOW)
        new = [NewTrial(n, "sgd", {"lr": n}, 0, TrialState.QUEUED, None, 0, 10, 320) for n in range(3)]
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
        told = outcomes.of_study(session, study_id=study, states=[TrialState.FAILED])
        assert [(trial.id, trial.params) for trial in told] == [(one, {"lr": 0}), (other, {"lr": 1})]
