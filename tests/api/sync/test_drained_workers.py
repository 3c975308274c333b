"""Workers that are told to leave, and workers that get no trials for a while; on both databases."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from sqlalchemy import text

from api.sync.quarantine import IN_A_ROW


def worker_of(client: TestClient, worker: FakeWorker) -> Any:
    return next(one for one in client.get("/api/v1/workers").json()["items"] if one["id"] == worker.id)


def crash(worker: FakeWorker, assignment: dict[str, Any]) -> None:
    worker.finish(assignment, None, outcome="crashed", error="died with status -11")


def test_a_worker_that_is_told_to_leave_gets_nothing_more(client: TestClient) -> None:
    submit(client, name="mine", run_cap=8, parallel=8)
    worker = FakeWorker(client, width=4)
    first = worker.take(2)[0]
    told = client.post(f"/api/v1/workers/{worker.id}/drain").json()
    assert (told["state"], told["held"]) == ("draining", 2)
    assert client.post(f"/api/v1/workers/{worker.id}/drain").status_code == 200
    reply = worker.sync(free=2, wait_s=5.0)
    assert (reply.leave, reply.assign, reply.stop) == (True, [], [])
    worker.finish(first, None, outcome="drained")
    wait_for(lambda: client.get(f"/api/v1/studies/mine/trials/{first['number']}").json()["state"] == "queued")
    assert worker.sync(free=4).assign == []


def test_an_idle_worker_hears_at_once_that_it_is_to_leave(client: TestClient) -> None:
    worker = FakeWorker(client)
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.append(worker.sync(wait_s=25.0)))
    waiting.start()
    wait_for(lambda: worker.session in client.app.state.server.waiting._current)  # type: ignore[attr-defined]
    client.post(f"/api/v1/workers/{worker.id}/drain")
    waiting.join(10.0)
    assert replies[0].leave


def test_three_crashes_in_a_row_quarantine_a_worker_and_its_study_says_so(client: TestClient) -> None:
    submit(client, name="mine", run_cap=8, parallel=8)
    worker = FakeWorker(client, width=IN_A_ROW)
    for assignment in worker.take(IN_A_ROW):
        crash(worker, assignment)
    shown = worker_of(client, worker)
    assert shown["state"] == "quarantined"
    assert shown["why"] == "its process died under 3 trials in a row"
    assert worker.sync(free=3).assign == []
    waits = client.get("/api/v1/studies/mine").json()["waits_for"]
    assert waits.startswith("a worker: fake is quarantined until ")
    assert f"tuner release {worker.id}" in waits
    healthy = FakeWorker(client, session="another-session-1", width=2)
    assert len(healthy.take(2)) == 2
    assert client.post(f"/api/v1/workers/{worker.id}/release").json()["state"] == "idle"
    assert len(worker.take(1)) == 1


def test_a_quarantine_ends_by_itself_and_begins_again_with_the_next_crash(client: TestClient) -> None:
    submit(client, name="mine", run_cap=8, parallel=8)
    worker = FakeWorker(client, width=IN_A_ROW)
    for assignment in worker.take(IN_A_ROW):
        crash(worker, assignment)
    database = client.app.state.server.database  # type: ignore[attr-defined]
    with database.write() as session:
        past = database.now(session) - timedelta(seconds=1)
        session.execute(text("update workers set quarantined_until = :past"), {"past": past})
    assert worker_of(client, worker)["state"] == "idle"
    crash(worker, worker.take(1)[0])
    assert worker_of(client, worker)["state"] == "quarantined"


@pytest.mark.parametrize("between", ["finished", "same trial"])
def test_what_is_not_the_workers_fault_quarantines_nobody(client: TestClient, between: str) -> None:
    submit(client, name="mine", run_cap=8, parallel=1 if between == "same trial" else 8, retry={"max": 9})
    worker = FakeWorker(client, width=1)
    for number in range(4):
        assignment = worker.take(1)[0]
        if between == "finished" and number == 2:
            worker.finish(assignment, 0.5)
        else:
            crash(worker, assignment)
    assert worker_of(client, worker)["state"] == "idle"


def test_unknown_workers_are_not_found(client: TestClient) -> None:
    for order in ("drain", "release"):
        assert client.post(f"/api/v1/workers/999/{order}").status_code == 404
