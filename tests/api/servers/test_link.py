"""What happens on one server wakes who waits on another; and without their link, who waits looks now and then."""

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from several_servers import Served, eventually
from sqlalchemy import text
from study_documents import study_document

from api import broadcasts
from api.servers import link
from api.servers.link import Link
from storage.database import Database, DatabaseUnusable
from storage.line import Line
from tuner.wire.sync import SyncReply

Serve = Callable[..., Served]


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears something has been told of it."""
    monkeypatch.setattr(link, "POLL_S", 3600.0)
    monkeypatch.setattr(broadcasts, "ELSEWHERE_S", 3600.0)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers' lines cannot be opened."""

    def refused(database: Database) -> Line:
        raise DatabaseUnusable("no line")

    monkeypatch.setattr(Link.__init__, "__defaults__", (refused,))


def waiting(worker: FakeWorker) -> "Future[SyncReply]":
    """Let a worker wait for work in a thread."""
    pool = ThreadPoolExecutor(1)
    found = pool.submit(worker.sync, wait_s=25.0)
    pool.shutdown(wait=False)
    return found


def is_waiting(served: Served, worker: FakeWorker) -> bool:
    return worker.id in served.server.syncs.presence._waiting


def submitted(served: Served, **changes: Any) -> None:
    answer = served.client.post("/api/v1/studies", json=study_document(**changes))
    assert answer.status_code == 201, answer.text


@pytest.mark.usefixtures("no_polling")
def test_a_study_submitted_here_is_driven_there_and_gives_work_to_who_waits_here(serve: Serve) -> None:
    first, second = serve(), serve()
    eventually(lambda: first.shards.count == second.shards.count == 32, "both to have their share")
    worker = FakeWorker(second.client)
    for round_ in range(4):  # neighbours are driven by different servers
        reply = waiting(worker)
        eventually(lambda: is_waiting(second, worker), "it to wait")
        begun = time.monotonic()
        submitted(first if round_ % 2 else second, name=f"study-{round_}", run_cap=1, parallel=1)
        (assignment,) = reply.result(20).assign
        assert time.monotonic() - begun < 10
        worker.finish(assignment.model_dump())


@pytest.mark.usefixtures("no_polling")
def test_a_worker_that_waits_here_is_told_to_leave_there(serve: Serve) -> None:
    first, second = serve(), serve()
    eventually(lambda: second.server.hub.hears_all and first.server.hub.hears_all, "both to hear")
    worker = FakeWorker(second.client)
    reply = waiting(worker)
    eventually(lambda: is_waiting(second, worker), "it to wait")
    assert first.client.post(f"/api/v1/workers/{worker.id}/drain").status_code == 200
    assert reply.result(20).leave


@pytest.mark.usefixtures("no_polling")
def test_who_follows_a_study_here_sees_what_happens_there(serve: Serve) -> None:
    first, second = serve(), serve()
    eventually(lambda: second.server.hub.hears_all and first.server.hub.hears_all, "both to hear")
    submitted(first, run_cap=1, parallel=1)
    with ThreadPoolExecutor(1) as pool:
        worker = FakeWorker(first.client)
        (assignment,) = worker.take(1)
        path = "/api/v1/studies/small/events"
        seen = pool.submit(second.client.get, path, headers={"Last-Event-ID": "0"})
        broadcasts_there = second.server.broadcasts._running
        eventually(lambda: broadcasts_there, "it to follow")
        (broadcast,) = broadcasts_there.values()
        worker.sync(reports=[report(assignment, 1, valid_loss=1.0)])
        eventually(lambda: broadcast._said_at > 0, "it to hear of the report")
        worker.finish(assignment)
        first.client.delete("/api/v1/studies/small")
        said = seen.result(20).text
    assert "event: advanced" in said and "event: deleted" in said and "trial.running" in said


def test_without_a_link_who_waits_looks_now_and_then(serve: Serve, monkeypatch: pytest.MonkeyPatch, deaf: None) -> None:
    monkeypatch.setattr(link, "POLL_S", 0.2)
    monkeypatch.setattr(broadcasts, "ELSEWHERE_S", 0.2)
    apart = serve()
    monkeypatch.setattr(Link.__init__, "__defaults__", (Line,))
    driving = serve()
    eventually(lambda: driving.shards.count == 64, "the server that can to drive everything")
    assert apart.shards.count == 0 and not apart.server.hub.hears_all
    worker = FakeWorker(apart.client)
    reply = waiting(worker)
    eventually(lambda: is_waiting(apart, worker), "it to wait")
    submitted(apart, run_cap=1, parallel=1)
    assert reply.result(20).assign
    with apart.client.stream("GET", "/api/v1/studies/small/events") as lines:
        driving.client.delete("/api/v1/studies/small")
        assert any("deleted" in line for line in lines.iter_lines())


def test_a_lost_line_is_opened_again_and_what_was_said_meanwhile_is_heard(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "POLL_S", 3600.0)
    first, second = serve(), serve()
    eventually(lambda: first.shards.count == second.shards.count == 32, "both to have their share")
    backend = first.shards._backend
    with first.server.database.write() as session:
        session.execute(text("select pg_terminate_backend(:pid)"), {"pid": backend})
    eventually(lambda: first.shards._backend not in (backend, None), "another line")
    eventually(lambda: first.shards.count == second.shards.count == 32, "both to have their share again")
    assert first.server.hub.hears_all
    worker = FakeWorker(first.client)
    reply = waiting(worker)
    eventually(lambda: is_waiting(first, worker), "it to wait")
    submitted(second, run_cap=1, parallel=1)
    assert reply.result(20).assign


def test_a_server_that_is_closed_hands_over_within_a_second_or_so(serve: Serve) -> None:
    first, second = serve(), serve()
    eventually(lambda: first.shards.count == second.shards.count == 32, "both to have their share")
    first.close()
    begun = time.monotonic()
    eventually(lambda: second.shards.count == 64, "the other one to take over")
    assert time.monotonic() - begun < 10


def test_a_burst_is_one_message_and_an_unknown_message_wakes_everybody(serve: Serve) -> None:
    served = serve()
    eventually(lambda: served.server.hub.hears_all, "it to hear")
    listener = Line(served.server.database)
    try:
        for study in range(1000):
            served.server.hub.ring(study % 7, queued=2)
        heard: list[str] = []
        until = time.monotonic() + 20
        while sum(json.loads(said)["work"] for said in heard) < 2000 and time.monotonic() < until:
            heard += listener.hear(0.5)
        assert {study for said in heard for study in json.loads(said)["studies"]} == set(range(7))
        assert sum(json.loads(said)["work"] for said in heard) == 2000
        assert len(heard) <= 50
        ticket = served.server.hub.changes.ticket()
        listener.tell("a message of a later version")
        eventually(ticket.is_set, "it to look at everything")
    finally:
        listener.close()
