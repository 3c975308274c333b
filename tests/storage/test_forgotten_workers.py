"""Worker sessions that were not seen for a week are forgotten, unless an attempt still names them."""

from datetime import timedelta
from pathlib import Path

import pytest
import stored_leases
from stored_leases import NOW

from api.conductor.retention import WORKERS_KEPT, Retention
from api.plans import Plans
from storage import attempts, studies, trials, workers
from storage.database import Database
from storage.trials import NewTrial
from tuner.store import open_store
from tuner.study.states import TrialState


@pytest.fixture
def study(database: Database) -> int:
    with database.write() as session:
        found = studies.create(
            session, name="s", title="", document={"workload": {"name": "w"}}, run_cap=9, parallel=4,
            idempotency_key=None, now=NOW,
        )  # fmt: skip
        return found.id


def worker(database: Database, name: str) -> int:
    with database.write() as session:
        return workers.register(
            session, worker_session=name.ljust(16, "x"), name=name, devices=[], workloads=[], version="", now=NOW
        )


def lease(database: Database, study: int, worker_id: int) -> int:
    with database.write() as session:
        number = studies.reserve_number(session, study_id=study)
        assert number is not None
        new = NewTrial(number, "sgd", {"lr": 0.1}, 0, TrialState.QUEUED, None, 0, 10, 320, "k")
        trial = trials.create(session, study_id=study, trial=new, now=NOW)
        stored_leases.grant(session, trial, worker_id)
        return trial


def test_a_week_later_only_those_that_attempts_name_are_kept(database: Database, study: int, tmp_path: Path) -> None:
    gone, busy, named, back = (worker(database, name) for name in ("gone", "busy", "named", "back"))
    lease(database, study, busy)
    ended = lease(database, study, named)
    with database.write() as session:
        stored_leases.take_back(session, ended, "lost")
    retention = Retention(database, Plans(), open_store(str(tmp_path / "store")))

    def left(days: float) -> set[int]:
        database.now = lambda session: NOW + timedelta(days=days)  # type: ignore[method-assign]
        retention.forget_workers()
        with database.read() as session:
            return set(workers.by_ids(session, ids={gone, busy, named, back}))

    assert WORKERS_KEPT == timedelta(days=7)
    assert left(6.9) == {gone, busy, named, back}
    with database.write() as session:
        workers.seen(
            session, worker_id=back, worker_session="back".ljust(16, "x"), seq=1, now=NOW + timedelta(days=6.9)
        )
    assert left(7.1) == {busy, named, back}
    with database.write() as session:
        assert attempts.held_counts(session) == {busy: 1}
        studies.delete_study(session, study_id=study)
    assert left(7.2) == {back}, "nobody names them any more"
