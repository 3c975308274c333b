"""How many statements trials and idle workers cost, whoever sends them: the syncs, and the rounds of the conductor."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from counted import statements
from study_documents import study_document
from sync_world import World

from storage import workers
from storage.database import Database
from tuner.wire.sync import SyncRequest

SESSION = "s" * 16
COUNT, ROWS = 64, 20


@pytest.fixture
def database(database_url: str | None, tmp_path: Path, sqlite_template: Path) -> Any:
    found = Database(database_url or f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'test.sqlite')}")
    yield found
    found.close()


def request(seq: int, ends: list[Any] | None = None) -> SyncRequest:
    """Ask for 64 trials, and end those that were held, each with its rows."""
    steps = range(1, ROWS + 1)
    sums = {"n": 4, "s": 1.0, "q": 1.0, "ss": 1.0, "qq": 1.0, "sq": 1.0}
    keys = [{"trial": one.trial, "attempt": one.attempt} for one in ends or []]
    place = {"elapsed_s": 1.0, "ticks": 9, "computed": 9.0, "noise": sums}
    rows = [
        {**key, **place, "step": step, "examples": 16 * step, "metrics": {"valid_loss": 1 / step}}
        for key in keys
        for step in steps
    ]
    words = [
        {
            **key,
            "token": one.token,
            "outcome": "finished",
            "step": ROWS,
            "examples": 16 * ROWS,
            "program": {"width": 64},
        }
        for key, one in zip(keys, ends or [], strict=True)
    ]
    capacity = [{"device": "cpu", "free": COUNT}]
    return SyncRequest.model_validate(
        {"session": SESSION, "seq": seq, "capacity": capacity, "reports": rows, "finished": words}
    )


def test_a_finished_trial_costs_less_than_a_statement_and_an_idle_look_one(database: Database, tmp_path: Path) -> None:
    world = World(database, str(tmp_path / "store"))
    document = study_document(run_cap=3 * COUNT, parallel=2 * COUNT, budget={"examples_per_trial": 16 * ROWS})
    world.commands.submit({**document, "parameters": {"batch_size": {"values": [16]}}}, idempotency_key=None)
    with database.write() as session:
        worker = workers.register(
            session, worker_session=SESSION, name="w", devices=[{"device": "cpu", "width": COUNT}],
            workloads=[{"name": "digits-mlp"}], version="", now=world.now,
        )  # fmt: skip
    world.conduct()
    held = world.syncs.apply(worker, request(0)).reply.assign
    world.conduct()
    assert len(held) == COUNT
    with statements(database) as found:
        reply = world.syncs.apply(worker, request(1, held)).reply
        world.conduct()  # proposes as many as have ended
    assert len(reply.assign) == COUNT
    assert {trial.value for trial in world.trials() if trial.state == "completed"} == {1 / ROWS}
    assert len(found) <= COUNT, found  # one per trial would leave room for twice as many

    world.commands.stop("small")
    world.syncs.apply(worker, request(2))
    with statements(database) as found:
        assert world.syncs.apply(worker, request(3)).reply.assign == []
    assert len(found) == 1
    with statements(database) as found:
        assert world.syncs.look(worker, request(3)).reply.assign == []
    assert len(found) == 1
