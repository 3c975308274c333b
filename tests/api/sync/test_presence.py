"""Idle workers: each is known to be there, none costs a write of its own, and none gets work twice or misses it."""

from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from sqlalchemy import update

from storage import tables as t
from storage import workers
from tuner.wire.sync import SyncRequest


@pytest.fixture
def server(client: TestClient) -> Any:
    return client.app.state.server  # type: ignore[attr-defined]


def stored(server: Any, worker: FakeWorker) -> workers.WorkerRecord:
    with server.database.read() as session:
        return workers.get(session, worker_id=worker.id, worker_session=worker.session)


def test_an_idle_worker_is_stored_later_with_all_others(client: TestClient, server: Any) -> None:
    crew = [FakeWorker(client, session=f"idle-session-{number:04d}") for number in range(3)]
    with server.database.write() as session:
        session.execute(update(t.Worker).values(last_seen=t.Worker.first_seen, seq=-1))
    before = [stored(server, worker) for worker in crew]
    with server.database.write():  # would wait here for ever if it wanted to write
        for number, worker in enumerate(crew):
            worker.seq = 4 + number
            server.syncs.apply(worker.id, SyncRequest.model_validate(worker.body()))
    server.syncs.store_presence()
    after = [stored(server, worker) for worker in crew]
    assert [record.seq for record in after] == [4, 5, 6]
    assert all(new.last_seen > old.last_seen for new, old in zip(after, before, strict=True))


def test_a_worker_is_there_as_long_as_its_sync_waits(client: TestClient, server: Any) -> None:
    worker = FakeWorker(client)
    worker.sync()
    server.syncs.store_presence()
    with server.syncs.presence.waiting(worker.id):
        before = stored(server, worker).last_seen
        server.syncs.store_presence()
        assert stored(server, worker).last_seen > before
    server.syncs.store_presence()
    assert server.syncs.presence.unstored() == {}


def test_a_request_seen_before_gets_nothing_new_whether_or_not_it_was_stored(client: TestClient, server: Any) -> None:
    worker = FakeWorker(client)
    worker.sync()
    old = worker.body()
    worker.sync()
    assert stored(server, worker).seq < worker.seq  # the server alone knows of the second
    submit(client)
    wait_for(lambda: client.get("/api/v1/studies/small").json()["counts"].get("queued") == 4)
    for body in (old, worker.body()):
        assert server.syncs.apply(worker.id, SyncRequest.model_validate(body)).reply.assign == []
    assert worker.take(1)
