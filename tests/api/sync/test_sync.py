"""The sync protocol, server side: lost, repeated and reordered messages are harmless, and no lease is given twice."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from over_http import submit, wait_for

from api.hub import Caller
from storage import attempts


def trial(client: TestClient, number: int) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/studies/small/trials/{number}").json()
    return found


def study_state(client: TestClient) -> str:
    return str(client.get("/api/v1/studies/small").json()["state"])


def test_a_study_runs_to_its_end(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    for i, assignment in enumerate(worker.take(4)):
        worker.sync(
            free=0, reports=[report(assignment, 5, valid_loss=1.0 + i), report(assignment, 10, valid_loss=0.1 + i)]
        )
        worker.finish(assignment, value=None)
    wait_for(lambda: study_state(client) == "completed")
    study = client.get("/api/v1/studies/small").json()
    assert study["counts"] == {"completed": 4}
    assert study["best"]["value"] == pytest.approx(0.1)
    assert [t["value"] for t in client.get("/api/v1/studies/small/trials?sort=-value").json()["items"]] == [
        pytest.approx(v) for v in (3.1, 2.1, 1.1, 0.1)
    ]


def test_an_assignment_is_repeated_until_it_is_held_and_never_doubled(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    wait_for(lambda: bool(worker.post({**worker.body(free=0), "seq": 0}).assign) or worker_sees(worker))
    lost = worker.post({**worker.body(free=2), "seq": 100})
    again = worker.post({**worker.body(free=2), "seq": 101})
    assert [a.trial for a in again.assign] == [a.trial for a in lost.assign]
    assert len(lost.assign) == 2
    states = client.get("/api/v1/studies/small").json()["counts"]
    assert states["running"] == 2


def worker_sees(worker: FakeWorker) -> bool:
    """Whether the queue is filled (nothing is leased by looking)."""
    return bool(worker.client.get("/api/v1/studies/small").json()["counts"].get("queued") == 4)


def test_an_old_message_is_heard_but_gets_no_new_lease(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    (first,) = worker.take(1)
    old = {**worker.body(free=3), "seq": worker.seq - 1, "reports": [report(first, 3, valid_loss=0.7)]}
    reply = worker.post(old)
    assert reply.assign == []
    assert trial(client, first["number"])["step"] == 3


def test_finishing_twice_changes_nothing(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    (first,) = worker.take(1)
    worker.finish(first, value=0.25)
    worker.held[first["trial"], first["attempt"]] = first
    worker.finish(first, value=99.0)
    found = trial(client, first["number"])
    assert (found["state"], found["value"]) == ("completed", 0.25)


def test_a_report_of_another_workers_trial_is_ignored_and_its_holder_told_to_stop(client: TestClient) -> None:
    submit(client)
    worker, stranger = FakeWorker(client), FakeWorker(client, session="fake-session-0002")
    (first,) = worker.take(1)
    stranger.held[first["trial"], first["attempt"]] = first
    reply = stranger.sync(free=0, reports=[report(first, 9, valid_loss=0.0)])
    assert [(s.trial, s.attempt) for s in reply.stop] == [(first["trial"], first["attempt"])]
    assert reply.stop[0].order == "fenced"
    assert trial(client, first["number"])["step"] == 0


def test_a_device_is_never_given_trials_of_two_stacks(client: TestClient) -> None:
    submit(client, run_cap=2)
    submit(client, name="other", run_cap=2, parameters={"batch_size": 64})
    worker = FakeWorker(client, width=8)
    wait_for(lambda: client.get("/api/v1/studies/other").json()["counts"].get("queued") == 2)
    worker.take(2)
    worker.sync(free=6)
    assert {held["study"] for held in worker.held.values()} == {"small"}
    for assignment in list(worker.held.values()):
        worker.finish(assignment)
    worker.take(2)
    assert {held["study"] for held in worker.held.values()} == {"other"}


def test_a_drained_trial_is_queued_again_without_charge_and_an_error_with(client: TestClient) -> None:
    submit(client, retry={"max": 1}, run_cap=1, parallel=1)
    worker = FakeWorker(client)
    for _ in range(3):
        (held,) = worker.take(1)
        worker.finish(held, value=None, outcome="drained")
    (held,) = worker.take(1)
    assert held["attempt"] == 4
    worker.finish(held, value=None, outcome="error", error="Traceback: boom")
    (held,) = worker.take(1)
    worker.finish(held, value=None, outcome="crashed")
    found = trial(client, 0)
    assert found["state"] == "failed"
    assert found["reason"] == "crashed 2 times; retry.max is 1"
    wait_for(lambda: study_state(client) == "failed")


def test_an_error_that_repeats_word_for_word_ends_the_trial_at_once(client: TestClient) -> None:
    submit(client, retry={"max": 9}, run_cap=1, parallel=1)
    worker = FakeWorker(client)

    def end(outcome: str, error: str | None) -> None:
        worker.finish(worker.take(1)[0], value=None, outcome=outcome, error=error)

    for outcome, error in (("error", "at 3"), ("error", "at 4"), ("crashed", "at 4"), ("error", "at 4")):
        end(outcome, f"Traceback\nValueError: boom {error}")
    end("drained", None)  # no failure: it does not come between two
    assert trial(client, 0)["state"] == "queued"
    end("error", "Traceback\nValueError: boom at 4")
    found = trial(client, 0)
    assert (found["state"], found["attempt"]) == ("failed", 6)
    assert found["reason"] == "failed twice in the same way: ValueError: boom at 4"


def test_divergence_is_a_result_and_a_missing_metric_a_failure(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    one, two, three, four = worker.take(4)
    worker.finish(one, value=None, infeasible="diverged")
    worker.sync(free=0, reports=[report(two, 5, valid_loss="NaN"), report(three, 5, other=1.0)])
    worker.finish(two, value=None)
    worker.finish(three, value=None)
    worker.finish(four)
    states = {n: (trial(client, n)["state"], trial(client, n)["reason"]) for n in range(4)}
    assert states[one["number"]] == ("infeasible", "diverged")
    assert states[two["number"]] == ("infeasible", "diverged")
    assert states[three["number"]] == ("failed", "the workload reported no 'valid_loss'; it reported other")
    assert states[four["number"]][0] == "completed"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"valid_accuracy": "NaN", "valid_loss": 0.7, "train_loss": 0.5}],
         "valid_accuracy is nan at the end, while the loss is finite"),
        ([{"valid_accuracy": "NaN", "valid_loss": "NaN"}], "diverged"),
        ([{"train_loss": "Infinity"}, {"valid_accuracy": "NaN"}], "diverged"),
        ([{"valid_accuracy": "NaN"}], "valid_accuracy is nan at the end"),
    ],
)  # fmt: skip
def test_diverged_is_said_of_the_loss_alone(client: TestClient, rows: list[dict[str, Any]], reason: str) -> None:
    submit(client, metric={"name": "valid_accuracy", "goal": "maximize"})
    worker = FakeWorker(client)
    (held,) = worker.take(1)
    worker.sync(free=0, reports=[report(held, step, **row) for step, row in enumerate(rows, 1)])
    worker.finish(held, value=None)
    found = trial(client, held["number"])
    assert (found["state"], found["reason"]) == ("infeasible", reason)


def test_a_batch_larger_than_the_budget_takes_no_trial_from_the_others(client: TestClient) -> None:
    submit(client, parameters={"batch_size": {"values": [16, 32, 1024]}}, run_cap=12, parallel=12)
    wait_for(lambda: client.get("/api/v1/studies/small").json()["counts"] == {"queued": 12})
    found = client.get("/api/v1/studies/small/trials").json()["items"]
    assert {t["params"]["batch_size"] for t in found} == {16, 32}


def test_a_stop_reaches_the_worker_and_a_finish_that_completed_beats_it(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    one, two, *_ = worker.take(4)
    for held in (one, two):
        assert client.post(f"/api/v1/studies/small/trials/{held['number']}/stop").status_code == 200
    worker.finish(two, value=0.3)
    assert trial(client, two["number"])["state"] == "completed"
    reply = worker.sync(free=0)
    assert (one["trial"], one["attempt"]) not in worker.held or reply.stop
    worker.sync(free=0)
    assert trial(client, one["number"])["state"] == "cancelled"
    assert client.post(f"/api/v1/studies/small/trials/{one['number']}/stop").status_code == 409


def test_stopping_a_study_ends_its_trials_and_deleting_it_frees_its_workers(client: TestClient) -> None:
    submit(client, run_cap=10, parallel=6)
    worker = FakeWorker(client)
    worker.take(4)
    stopped = client.post("/api/v1/studies/small/stop").json()
    assert stopped["state"] == "stopped"
    worker.sync(free=4)
    worker.sync(free=4)
    counts = client.get("/api/v1/studies/small").json()["counts"]
    assert set(counts) == {"cancelled"}
    assert client.post("/api/v1/studies/small/stop").status_code == 200
    assert client.delete("/api/v1/studies/small").status_code == 204
    assert client.get("/api/v1/studies/small").status_code == 404
    submit(client)
    held = worker.take(1)
    client.delete("/api/v1/studies/small")
    reply = worker.sync(free=0)
    assert [(s.trial, s.order) for s in reply.stop] == [(held[0]["trial"], "deleted")]


def test_a_target_ends_the_study(client: TestClient) -> None:
    submit(client, run_cap=50, parallel=3, metric={"target": 0.2, "stop_on_target": True})
    worker = FakeWorker(client)
    one, *_ = worker.take(3)
    worker.finish(one, value=0.1)
    wait_for(lambda: study_state(client) == "completed")
    assert client.get("/api/v1/studies/small").json()["reason"] == "the target 0.2 was reached"
    wait_for(lambda: (worker.sync(free=0) and not worker.held) or not worker.held)
    worker.sync(free=0)
    assert set(client.get("/api/v1/studies/small").json()["counts"]) == {"completed", "cancelled"}


def test_an_idle_worker_is_woken_by_new_work(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wait ends by the bell: the one here has no other end."""

    async def wait(caller: Caller, timeout_s: float) -> bool:
        return await caller.wake.wait()

    monkeypatch.setattr(Caller, "wait", wait)
    worker = FakeWorker(client)
    waiting = threading.Thread(target=worker.take, args=(1,), daemon=True)
    waiting.start()
    wait_for(lambda: worker.session in client.app.state.server.waiting._current)  # type: ignore[attr-defined]
    submit(client)
    waiting.join(30)
    assert worker.held


def test_a_worker_that_hung_up_while_it_waited_gets_no_lease(client: TestClient) -> None:
    """Its connection is closed before the work comes; the request itself was whole."""
    worker = FakeWorker(client)
    worker.seq += 1
    body = json.dumps(worker.body(wait_s=20.0)).encode()
    path = f"/api/v1/workers/{worker.id}/sync"
    headers = [(b"host", b"127.0.0.1:8700"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
        "raw_path": path.encode(), "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1),
        "scheme": "http", "server": ("127.0.0.1", 8700), "root_path": "",
    }  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    assert client.portal is not None
    waiting = client.portal.start_task_soon(client.app, scope, receive, send)
    wait_for(lambda: worker.session in client.app.state.server.waiting._current)  # type: ignore[attr-defined]
    submit(client)
    waiting.result(10)
    wait_for(lambda: client.get("/api/v1/studies/small").json()["counts"] == {"queued": 4})


def test_a_newer_sync_sends_a_waiting_older_one_away(client: TestClient) -> None:
    worker = FakeWorker(client)
    older = {**worker.body(wait_s=25.0), "seq": 1}
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (worker.post(older), done.set()))
    waiting.start()
    wait_for(lambda: worker.session in client.app.state.server.waiting._current)  # type: ignore[attr-defined]
    worker.post({**worker.body(), "seq": 2})
    assert done.wait(10)
    waiting.join()


def test_a_worker_that_is_not_known_is_told_to_register(client: TestClient) -> None:
    worker = FakeWorker(client)
    answer = client.post("/api/v1/workers/99/sync", json=worker.body())
    assert answer.status_code == 404
    assert "register again" in answer.json()["detail"]
    before = worker.id
    worker.register()
    assert worker.id == before


def test_a_lost_worker_loses_its_lease_after_the_grace_and_is_fenced(serve_app: Callable[..., TestClient]) -> None:
    client = serve_app(lease_s=1.0)
    submit(client)
    worker = FakeWorker(client)
    (first,) = worker.take(1)
    other = FakeWorker(client, session="fake-session-0002")
    wait_for(lambda: trial(client, first["number"])["state"] == "queued", timeout_s=30)
    for assignment in other.take(4):
        if assignment["trial"] == first["trial"]:
            assert assignment["attempt"] == 2
            assert assignment["params"] == first["params"]
    reply = worker.sync(free=0, reports=[report(first, 7, valid_loss=0.0)])
    assert [(s.trial, s.attempt) for s in reply.stop] == [(first["trial"], 1)]
    assert trial(client, first["number"])["step"] == 0


def test_leases_from_a_clock_that_was_ahead_end_in_time(serve_app: Callable[..., TestClient]) -> None:
    """The clock was two hours ahead when they were granted, and the server was restarted since."""
    client = serve_app(lease_s=1.0)
    submit(client)
    (held,) = FakeWorker(client).take(1)
    database = client.app.state.server.database  # type: ignore[attr-defined]
    with database.write() as session:
        attempts.renew(session, worker_id=1, lease_expires=datetime.now(UTC) + timedelta(hours=2))
    client = serve_app(lease_s=1.0)
    wait_for(lambda: trial(client, held["number"])["state"] == "queued", timeout_s=30)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # dear: it asks the sampler many times
def test_a_restarted_server_goes_on_without_repeating_a_proposal(serve_app: Callable[..., TestClient]) -> None:
    def run(interrupted: bool) -> list[dict[str, Any]]:
        client = serve_app()
        client.delete("/api/v1/studies/small")
        submit(client, run_cap=12, parallel=2, method="tpe", optimizers=["sgd"])
        session = f"fake-session-{interrupted:04d}"
        worker = FakeWorker(client, session=session)
        for i in range(12):
            (held, *_) = worker.take(1)
            if interrupted and i in (4, 7):
                client = serve_app()
                worker.client = client
            worker.finish(held, value=float(held["params"]["lr"]))
        wait_for(lambda: study_state(client) == "completed")
        return [t["params"] for t in client.get("/api/v1/studies/small/trials").json()["items"]]

    params = run(interrupted=True)
    assert len({p["lr"] for p in params}) == 12
    assert params == run(interrupted=False)
