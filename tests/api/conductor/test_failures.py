"""What fails stays where it happens: one study's trouble, a slow sampler, a database that is away for a while."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for

from api.conductor import conductor, proposals, troubles
from api.conductor.asker import SamplerFailed
from storage.database import Database, DatabaseUnusable
from tuner.search.request import AskRequest


def study(client: TestClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/studies/{name}").json()
    return found


def finish_all(client: TestClient, name: str) -> None:
    worker = FakeWorker(client, session=f"session-of-{name}-0000")
    for held in worker.take(4):
        assert held["study"] == name
        worker.finish(held)


@pytest.fixture
def server(client: TestClient) -> Any:
    return client.app.state.server  # type: ignore[attr-defined]


@pytest.fixture
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "FIRST_REST_S", 0.01)
    monkeypatch.setattr(troubles, "LONGEST_REST_S", 0.02)


def test_one_studys_trouble_touches_no_other_and_is_said(
    client: TestClient, server: Any, monkeypatch: pytest.MonkeyPatch, short_rests: None
) -> None:
    """Whatever the conductor's own code raises about a study; it is tried again until it works."""
    real = proposals.wanted
    broken = threading.Event()
    broken.set()

    def wanted(session: Any, *, study: Any, **given: Any) -> Any:
        if broken.is_set() and study.name == "odd":
            raise ZeroDivisionError("the odd study")
        return real(session, study=study, **given)

    monkeypatch.setattr(proposals, "wanted", wanted)
    odd = submit(client, name="odd")
    submit(client, name="even")
    finish_all(client, "even")
    wait_for(lambda: study(client, "even")["state"] == "completed")
    wait_for(lambda: server.conductor.trouble(odd) == "ZeroDivisionError: the odd study")
    said = study(client, "odd")
    assert said["state"] == "running" and "ZeroDivisionError: the odd study" in said["notice"]
    broken.clear()
    finish_all(client, "odd")
    wait_for(lambda: study(client, "odd")["state"] == "completed")
    assert server.conductor.trouble(odd) is None


def test_a_study_fails_only_when_the_sampler_fails_on_one_request_again_and_again(
    client: TestClient, server: Any, monkeypatch: pytest.MonkeyPatch, short_rests: None
) -> None:
    failures = 2
    real = server.asker.ask

    def ask(request: AskRequest) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise SamplerFailed("the sampler hangs")
        return real(request)

    monkeypatch.setattr(server.asker, "ask", ask)
    submit(client, name="twice")
    finish_all(client, "twice")
    wait_for(lambda: study(client, "twice")["state"] == "completed")
    failures = 10**9
    submit(client, name="always", run_cap=8)
    wait_for(lambda: study(client, "always")["state"] == "failed")
    assert study(client, "always")["reason"] == "the sampler hangs (3 times)"


def test_a_failed_study_leases_nothing_more_and_its_running_trials_are_stopped(
    client: TestClient, server: Any, monkeypatch: pytest.MonkeyPatch, short_rests: None
) -> None:
    submit(client, name="half", run_cap=8)
    worker = FakeWorker(client)
    held = worker.take(2)

    def ask(request: AskRequest) -> Any:
        raise SamplerFailed("no more")

    monkeypatch.setattr(server.asker, "ask", ask)
    first = worker.finish(held[0])  # leaves room for a proposal
    wait_for(lambda: study(client, "half")["state"] == "failed")
    reply = worker.sync(free=4)
    told = [(stop.trial, stop.why) for stop in (*first.stop, *reply.stop)]
    assert told == [(held[1]["trial"], "study failed")] and not reply.assign
    worker.sync(free=4)
    assert study(client, "half")["counts"] == {"completed": 1, "cancelled": 3}


def test_a_slow_sampler_delays_neither_the_end_of_another_study_nor_expiry(
    serve_app: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve_app(lease_s=1.0)
    server = client.app.state.server  # type: ignore[attr-defined]
    submit(client, name="quick")
    worker = FakeWorker(client)
    held = worker.take(4)
    asked, answer, real = threading.Event(), threading.Event(), server.asker.ask

    def ask(request: AskRequest) -> Any:
        asked.set()
        assert answer.wait(30)
        return real(request)

    monkeypatch.setattr(server.asker, "ask", ask)
    submit(client, name="slow")
    assert asked.wait(10)
    for one in held[:3]:
        worker.finish(one)
    # The last lease expires while the sampler is silent; nobody syncs for it.
    wait_for(lambda: study(client, "quick")["counts"] == {"completed": 3, "queued": 1})
    other = FakeWorker(client, session="session-of-the-other")
    other.finish(*other.take(1))
    wait_for(lambda: study(client, "quick")["state"] == "completed")
    answer.set()


@contextmanager
def away(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database cannot be used, neither for reading nor for writing."""

    @contextmanager
    def unusable() -> Iterator[None]:
        raise DatabaseUnusable("the database x cannot be used: it is away")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(database, "read", unusable)
        patch.setattr(database, "write", unusable)
        yield


def test_the_server_outlives_its_database(client: TestClient, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(client, name="small")
    worker = FakeWorker(client)
    held = worker.take(4)
    with away(server.database, monkeypatch):
        for method, path in (("GET", "/studies"), ("GET", "/studies/small"), ("POST", f"/workers/{worker.id}/sync")):
            answer = client.request(method, f"/api/v1{path}", json=worker.body(free=0) if method == "POST" else None)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
            assert answer.json()["detail"] == "the database x cannot be used: it is away"
        wait_for(lambda: server.conductor.tasks[1].failures > 0)
    for one in held:
        worker.finish(one)
    wait_for(lambda: study(client, "small")["state"] == "completed")


def test_tasks_go_on_after_any_error(client: TestClient, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tending,) = [task for task in server.conductor.tasks if task.name == "studies"]
    with monkeypatch.context() as patch:
        patch.setattr(conductor.studies, "ids_with_work", lambda _: 1 / 0)
        wait_for(lambda: tending.failures > 0)
    submit(client, name="small")
    finish_all(client, "small")
    wait_for(lambda: study(client, "small")["state"] == "completed")
    assert tending.failures == 0
