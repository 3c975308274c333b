"""What a sync costs the database: a fixed number of statements, and no write lock where nothing changes."""

from typing import Any

import pytest
from counted import statements
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document

from tuner.wire.sync import SyncRequest


@pytest.fixture
def server(client: TestClient) -> Any:
    return client.app.state.server  # type: ignore[attr-defined]


def busy_worker(client: TestClient, count: int, name: str) -> FakeWorker:
    document = study_document(name=name, run_cap=count, parallel=count)
    assert client.post("/api/v1/studies", json=document).status_code == 201
    worker = FakeWorker(client, session=f"session-of-{name}-0000", width=count)
    worker.take(count)
    return worker


def everything(worker: FakeWorker) -> SyncRequest:
    """A request that reports and finishes all that the worker holds, by value, by curve and by failure."""
    held = list(worker.held.values())
    worker.seq += 1
    rows = [report(one, step, valid_loss=1.0 / step) for one in held for step in (1, 2, 3)]
    named = [{name: one[name] for name in ("trial", "attempt", "token")} for one in held]
    words = [{**one, "step": 3, "examples": 48} for one in named]
    for number, word in enumerate(words):
        word |= {"outcome": "error", "error": "boom"} if number % 4 == 3 else {"outcome": "finished"}
        word["value"] = 0.5 if number % 2 else None
    worker.held.clear()
    return SyncRequest.model_validate(worker.body(free=0, reports=rows, finished=words))


def test_the_statements_of_a_sync_do_not_grow_with_its_trials(client: TestClient, server: Any) -> None:
    counts = []
    for count in (4, 40):
        worker = busy_worker(client, count, f"of-{count}")
        with statements(server.database) as found:
            server.syncs.apply(worker.id, everything(worker))
        states = client.get(f"/api/v1/studies/of-{count}").json()["counts"]
        assert states["completed"] == count * 3 / 4 and states["queued"] == count / 4
        client.post(f"/api/v1/studies/of-{count}/stop")
        counts.append(len(found))
    assert counts[0] == counts[1] <= 20


def test_granting_does_not_cost_statements_per_trial(client: TestClient, server: Any) -> None:
    counts = []
    for count in (4, 40):
        name = f"of-{count}"
        worker = busy_worker(client, count, name)
        back = [
            {"trial": one["trial"], "attempt": one["attempt"], "token": one["token"], "outcome": "drained"}
            for one in worker.held.values()
        ]
        worker.held.clear()
        worker.sync(free=0, finished=back)
        worker.seq += 1
        request = SyncRequest.model_validate(worker.body(free=count))
        with statements(server.database) as found:
            outcome = server.syncs.apply(worker.id, request)
        assert len(outcome.reply.assign) == count
        client.post(f"/api/v1/studies/{name}/stop")
        worker.sync(free=0)
        counts.append(len(found))
    assert counts[0] == counts[1] <= 20


def test_an_idle_look_takes_no_write_lock(client: TestClient, server: Any) -> None:
    worker = FakeWorker(client)
    worker.sync()
    request = SyncRequest.model_validate(worker.body())
    with server.database.write(), statements(server.database) as found:
        outcome = server.syncs.look(worker.id, request)  # would wait here for ever if it wanted to write
    assert (outcome.reply.assign, outcome.reply.stop) == ([], [])
    assert len(found) == 1 and found[0].startswith("SELECT")


def test_a_look_on_behalf_of_an_older_request_gets_nothing(client: TestClient, server: Any) -> None:
    worker = FakeWorker(client)
    worker.sync()
    old = SyncRequest.model_validate(worker.body())
    worker.sync()
    assert client.post("/api/v1/studies", json=study_document()).status_code == 201
    worker.take(1)
    assert server.syncs.look(worker.id, old).reply.assign == []
