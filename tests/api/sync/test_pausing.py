"""Pausing and resuming a study: what each trial does in each state, whatever it was told before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_worker import EngineWorker
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from storing_worker import StoringWorker

from storage import attempts, events
from tuner.wire.sync import SyncReply

AT = "/api/v1/studies/small"
EVERY = {"examples_per_trial": 320}


@pytest.fixture
def worker(client: TestClient) -> StoringWorker:
    """Of a study with two trials, of which it has taken one."""
    submit(client, run_cap=2, parallel=2)
    wait_for(lambda: study(client)["counts"].get("queued") == 2)
    worker = StoringWorker(client)
    worker.take(1)
    return worker


def study(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get(AT).json()
    return found


def act(client: TestClient, what: str, status: int = 200) -> dict[str, Any]:
    answer = client.post(f"{AT}/{what}")
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def trial(client: TestClient, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{AT}/trials/{number}").json()
    return found


def told(client: TestClient) -> list[tuple[str, int | None]]:
    server = client.app.state.server  # type: ignore[attr-defined]
    with server.database.read() as session:
        found = events.after(session, study_id=study(client)["id"], revision=0)
    return [(event.kind, event.trial) for event in found]


def one_of(worker: FakeWorker) -> dict[str, Any]:
    return next(iter(worker.held.values()))


def look(worker: FakeWorker, **more: Any) -> SyncReply:
    """Sync without obeying the reply."""
    worker.seq += 1
    return worker.post(worker.body(**more))


def leave(
    worker: FakeWorker, held: dict[str, Any], outcome: str = "paused", said: dict[str, Any] | None = None, **more: Any
) -> SyncReply:
    """Say how an attempt ended, and ask for more."""
    worker.held.pop((held["trial"], held["attempt"]))
    word = {"trial": held["trial"], "attempt": held["attempt"], "token": held["token"], "outcome": outcome}
    return look(worker, finished=[{**word, **(said or {})}], **more)


def test_running_trials_pause_with_their_state_and_go_on_where_they_were(
    client: TestClient, worker: StoringWorker
) -> None:
    held = one_of(worker)
    shown = act(client, "pause")
    assert (shown["state"], shown["reason"]) == ("paused", "paused by a user")
    assert (trial(client)["state"], trial(client)["order"]) == ("running", "pause")
    (order,) = look(worker).stop
    assert (order.trial, order.order) == (held["trial"], "pause")
    assert look(worker).stop == [order], "until it has obeyed"
    state = worker.write(held, 10)
    reply = leave(worker, held, reports=[report(held, 10, valid_loss=0.9)], checkpointed=[state])
    assert not reply.assign and not reply.stop, "nothing is leased"
    assert (trial(client)["state"], trial(client)["step"], trial(client)["order"]) == ("paused", 10, None)
    assert study(client)["counts"] == {"paused": 1, "queued": 1}
    assert act(client, "pause")["revision"] == study(client)["revision"], "pausing twice changes nothing"

    assert act(client, "resume")["state"] == "running"
    assert study(client)["counts"] == {"queued": 2} and study(client)["reason"] is None
    again = next(one for one in look(worker, free=2).assign if one.number == 0)
    assert (again.attempt, again.resume and again.resume.step) == (2, 10)
    assert act(client, "resume")["state"] == "running", "resuming twice is no error"
    kinds = told(client)
    for kind in [("study.paused", None), ("trial.pausing", 0), ("trial.paused", 0), ("trial.requeued", 0)]:
        assert kinds.count(kind) == 1
    assert ("trial.restarted", 0) not in kinds


def test_nothing_is_proposed_while_paused(client: TestClient) -> None:
    submit(client, run_cap=50, parallel=2)
    wait_for(lambda: study(client)["counts"].get("queued") == 2)
    worker = FakeWorker(client)
    held = worker.take(2)
    act(client, "pause")
    for one in held:
        leave(worker, one, "finished", {"value": 0.5})
    client.app.state.server.conductor.tasks[2].work()  # type: ignore[attr-defined]
    assert study(client)["counts"] == {"completed": 2}
    act(client, "resume")
    wait_for(lambda: study(client)["counts"].get("queued") == 2)


@pytest.mark.parametrize("finish", [{"value": 0.25}, {"infeasible": "diverged"}])
def test_a_finish_beats_a_pending_pause(client: TestClient, worker: StoringWorker, finish: dict[str, Any]) -> None:
    act(client, "pause")
    leave(worker, one_of(worker), "finished", finish)
    assert trial(client)["state"] == ("completed" if "value" in finish else "infeasible")
    assert study(client)["state"] == "paused"


def test_a_resume_before_the_worker_obeyed_withdraws_the_order(client: TestClient, worker: StoringWorker) -> None:
    act(client, "pause")
    act(client, "resume")
    assert (trial(client)["state"], trial(client)["order"], trial(client)["attempt"]) == ("running", None, 1)
    assert not look(worker).stop and ("trial.resumed", 0) in told(client)
    worker.finish(one_of(worker))
    assert trial(client)["state"] == "completed"


def test_a_worker_that_obeyed_too_late_gives_the_trial_back(client: TestClient, worker: StoringWorker) -> None:
    act(client, "pause")
    act(client, "resume")
    reply = leave(worker, one_of(worker), free=2)
    assert [one.number for one in reply.assign] == [0, 1] and trial(client)["attempt"] == 2


def test_a_trial_whose_assignment_never_arrived_is_paused(client: TestClient, worker: StoringWorker) -> None:
    worker.held.clear()
    act(client, "pause")
    assert not look(worker).assign
    assert trial(client)["state"] == "paused"


@pytest.mark.parametrize("outcome", ["drained", "displaced", "crashed"])
def test_whatever_ends_an_attempt_meanwhile_pauses_its_trial(
    client: TestClient, worker: StoringWorker, outcome: str
) -> None:
    act(client, "pause")
    leave(worker, one_of(worker), outcome)
    assert trial(client)["state"] == "paused"
    act(client, "resume")
    assert trial(client)["state"] == "queued"


def test_a_lease_lost_while_pausing_pauses_the_trial_uncharged(client: TestClient, worker: StoringWorker) -> None:
    """Who pauses a study may take its workers away: with `retry.max: 0` a loss would be the end of the trial."""
    client.delete(AT)
    worker.sync(free=0)
    submit(client, run_cap=1, parallel=1, retry={"max": 0})
    worker.take(1)
    act(client, "pause")
    server = client.app.state.server  # type: ignore[attr-defined]
    with server.database.write() as session:
        now = server.database.now(session)
        attempts.renew(session, worker_id=worker.id, lease_expires=now)
    server.conductor._expiry._grace.tick = lambda **_: True
    wait_for(lambda: trial(client)["state"] == "paused")
    act(client, "resume")
    worker.held.clear()
    assert worker.take(1)[0]["attempt"] == 2


def test_a_trial_without_a_checkpoint_begins_from_zero_and_says_so(client: TestClient, worker: StoringWorker) -> None:
    held = one_of(worker)
    program = {"trial": held["trial"], "attempt": 1, "program": {"device": "cpu"}}
    worker.sync(free=0, started=[program], reports=[report(held, 10, valid_loss=0.9)])
    act(client, "pause")
    leave(worker, held)
    assert (trial(client)["state"], trial(client)["step"]) == ("paused", 0)
    act(client, "resume")
    assert [kind for kind, number in told(client) if number == 0][-2:] == ["trial.requeued", "trial.restarted"]
    again = next(one for one in look(worker, free=2).assign if one.number == 0)
    assert again.resume is None


@pytest.mark.parametrize("obeyed", [False, True], ids=["pausing", "paused"])
def test_stop_comes_before_pause(client: TestClient, worker: StoringWorker, obeyed: bool) -> None:
    held = one_of(worker)
    act(client, "pause")
    if obeyed:
        leave(worker, held)
    assert act(client, "stop")["state"] == "stopped"
    if not obeyed:
        assert [stop.order for stop in worker.sync(free=0).stop] == ["stop"]
        worker.sync(free=0)
    assert study(client)["counts"] == {"cancelled": 2}
    act(client, "pause", status=409)


def test_a_users_stop_of_a_trial_outlasts_pause_and_resume(client: TestClient, worker: StoringWorker) -> None:
    for what in ("trials/0/stop", "pause", "resume"):
        act(client, what)
    assert trial(client)["order"] == "stop"
    worker.sync(free=0)
    worker.sync(free=0)
    assert trial(client)["state"] == "cancelled" and trial(client)["reason"] == "stopped by a user"


def test_a_paused_trial_can_be_stopped_by_itself(client: TestClient, worker: StoringWorker) -> None:
    act(client, "pause")
    leave(worker, one_of(worker))
    assert act(client, "trials/0/stop")["state"] == "cancelled"
    act(client, "resume")
    assert trial(client)["state"] == "cancelled"


def test_resume_undoes_a_stop(client: TestClient, worker: StoringWorker) -> None:
    """What the stop cancelled goes on from its last checkpoint; what a user had cancelled before does not."""
    held = one_of(worker)
    worker.checkpoint(held, 10)
    act(client, "trials/1/stop")
    act(client, "stop")
    worker.sync(free=0)
    worker.sync(free=0)
    assert study(client)["counts"] == {"cancelled": 2}
    client.app.state.server.retention.sweep()  # type: ignore[attr-defined]
    shown = act(client, "resume")
    assert (shown["state"], shown["counts"], shown["finished_at"]) == ("running", {"queued": 1, "cancelled": 1}, None)
    (again,) = look(worker, free=2).assign
    assert (again.number, again.attempt, again.resume and again.resume.step) == (0, 2, 10)
    wait_for(lambda: ("study.running", None) in told(client)[2:])


@pytest.mark.parametrize("heard", [False, True], ids=["before the worker hears", "after it has dropped the trial"])
def test_resume_undoes_a_stop_that_is_not_done_yet(client: TestClient, worker: StoringWorker, heard: bool) -> None:
    """A worker that dropped a trial never takes the same attempt again: the trial gets another one."""
    act(client, "stop")
    if heard:
        assert [stop.order for stop in worker.sync(free=0).stop] == ["stop"]
    act(client, "resume")
    assert study(client)["counts"] == {"queued": 2}
    reply = worker.sync(free=2)
    assert [stop.order for stop in reply.stop] == ([] if heard else ["fenced"])
    worker.take(2)
    for one in list(worker.held.values()):
        worker.finish(one)
    assert {trial(client, number)["state"] for number in (0, 1)} == {"completed"}
    assert trial(client)["attempt"] == 2


def test_a_completed_study_cannot_be_resumed_and_says_what_to_do(client: TestClient, worker: StoringWorker) -> None:
    worker.take(2)
    for one in list(worker.held.values()):
        worker.finish(one)
    wait_for(lambda: study(client)["state"] == "completed")
    assert "raise run_cap above 2" in act(client, "resume", status=409)["detail"]
    assert "only a running one can be paused" in act(client, "pause", status=409)["detail"]


def run(client: TestClient, store: Path, *, pauses: bool) -> dict[int, tuple[Any, ...]]:
    """Train a reproducible study, disturbed or not; return its trials' results and curves."""
    submit(
        client, run_cap=4, parallel=4, reproducible=True, budget={"examples_per_trial": 640}, evaluations=4,
        report_points=20, optimizers=["sgd", "adamw", "muon"],
    )  # fmt: skip
    wait_for(lambda: study(client)["counts"].get("queued") == 4)
    worker, rounds = EngineWorker(client, f"w{pauses}", 2, store=store), 0
    while study(client)["state"] != "completed":
        worker.train(ticks=7)
        rounds += 1
        assert rounds < 1000
        if pauses and rounds in (2, 5, 9, 14):
            act(client, "pause")
            wait_for(lambda: worker.train(ticks=1) or not study(client)["counts"].get("running"))
            assert study(client)["counts"]["paused"]
            act(client, "resume")
    found = {}
    for number in range(4):
        curve = client.get(f"{AT}/trials/{number}/curve?points=200").json()
        losses = client.get(f"{AT}/trials/{number}/curve?points=200&metric=train_loss").json()
        shown = trial(client, number)
        found[number] = shown["params"], shown["value"], curve["step"], curve["value"], losses["value"]
    assert (max(trial(client, number)["attempt"] for number in range(4)) > 1) == pauses
    client.delete(AT)
    return found


def test_a_paused_and_resumed_study_has_the_bits_of_an_undisturbed_one(client: TestClient, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        store = Path(str(client.app.state.server.settings.store_root))  # type: ignore[attr-defined]
        assert run(client, store, pauses=True) == run(client, store, pauses=False)
    finally:
        torch.set_num_threads(threads)
