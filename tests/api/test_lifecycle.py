"""Changing, cloning and reopening studies; enqueueing, stopping and retrying trials: what users may do, over HTTP."""

import threading
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from storing_worker import StoringWorker
from study_documents import study_document

from api.plans import Plans
from storage import events, studies

AT = "/api/v1/studies/small"


def study(client: TestClient, name: str = "small") -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/studies/{name}").json()
    return found


def trial(client: TestClient, number: int) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{AT}/trials/{number}").json()
    return found


def changes(client: TestClient, kind: str) -> list[dict[str, Any]]:
    server = client.app.state.server  # type: ignore[attr-defined]
    with server.database.read() as session:
        found = events.after(session, study_id=study(client)["id"], revision=0)
    return [event.data for event in found if event.kind == kind]


def faults(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {fault["field"]: fault["message"] for fault in answer.json()["errors"]}


def finish_all(client: TestClient, worker: FakeWorker, count: int, **ending: Any) -> None:
    for one in worker.take(count):
        worker.finish(one, **ending)


def state(client: TestClient, wanted: str) -> None:
    wait_for(lambda: study(client)["state"] == wanted)


# PATCH


def test_what_is_changed_holds_at_once_in_the_document_too(client: TestClient) -> None:
    submit(client, run_cap=4, parallel=1)
    wait_for(lambda: study(client)["counts"].get("queued") == 1)
    wish = {"title": "better", "tags": ["a"], "note": "n", "parallel": 3, "priority": 2, "budget": {"max_failed": 2}}
    answer = client.patch(AT, json=wish)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert {name: shown[name] for name in wish if name != "budget"} | {"budget": wish["budget"]} == wish
    document = shown["document"]
    budget = {key: value for key, value in document["budget"].items() if value is not None}
    assert budget == {"examples_per_trial": 640, "max_failed": 2} and document["parallel"] == 3
    wait_for(lambda: study(client)["counts"].get("queued") == 3)
    assert [held["priority"] for held in FakeWorker(client).take(1)] == [2.0]
    (said,) = changes(client, "study.changed")
    assert said["changes"]["budget.max_failed"] == [10, 2] and said["changes"]["parallel"] == [1, 3]
    before = study(client)["revision"]
    assert client.patch(AT, json=wish).status_code == 200
    assert study(client)["revision"] == before, "the same change twice is one"


def test_another_server_sees_a_changed_document(client: TestClient) -> None:
    """Plans are kept per server; the study's edition tells that one is out of date."""
    submit(client)
    server = client.app.state.server  # type: ignore[attr-defined]
    other = Plans()

    def read() -> Any:
        with server.database.read() as session:
            return studies.get(session, "small")

    old = read()
    assert other.of(old).spec.budget.max_failed == 10
    assert client.patch(AT, json={"budget": {"max_failed": 1}}).status_code == 200
    assert other.of(read()).spec.budget.max_failed == 1
    assert other.of(old).spec.budget.max_failed == 10 and other.of(read()).spec.budget.max_failed == 1


def test_what_cannot_change_is_refused_by_field(client: TestClient) -> None:
    submit(client)
    found = faults(client.patch(AT, json={"seed": 4, "capp": 1, "budget": {"examples_per_trial": 1}, "title": "x"}))
    assert set(found) == {"seed", "capp", "budget.examples_per_trial"}
    assert found["budget.examples_per_trial"] == (
        "cannot change: trials have trained on it; clone the study to have another"
    )
    assert study(client)["title"] == ""
    assert client.patch(AT, json=[1]).status_code == 422
    assert client.patch("/api/v1/studies/none", json={}).status_code == 404


def test_a_cap_below_the_runs_is_refused_with_their_number(client: TestClient) -> None:
    submit(client, run_cap=4, parallel=4)
    wait_for(lambda: study(client)["counts"].get("queued") == 4)
    assert "4 trials count towards it already (runs)" in faults(client.patch(AT, json={"run_cap": 3}))["run_cap"]
    assert client.patch(AT, json={"run_cap": 4}).status_code == 200


def test_a_raised_cap_reopens_a_completed_study(client: TestClient) -> None:
    submit(client, run_cap=2, parallel=2)
    worker = FakeWorker(client)
    finish_all(client, worker, 2)
    state(client, "completed")
    shown = client.patch(AT, json={"run_cap": 3}).json()
    assert (shown["state"], shown["finished_at"], shown["run_cap"]) == ("running", None, 3)
    finish_all(client, worker, 1)
    state(client, "completed")
    assert study(client)["counts"] == {"completed": 3}


def test_a_raised_cap_does_not_resume_a_stopped_study_nor_one_at_its_target(client: TestClient) -> None:
    submit(client, run_cap=2, parallel=2)
    client.post(f"{AT}/stop")
    assert client.patch(AT, json={"run_cap": 9}).json()["state"] == "stopped"
    assert client.post(f"{AT}/resume").json()["state"] == "running"
    client.delete(AT)
    submit(client, run_cap=4, metric={"name": "valid_loss", "target": 0.6, "stop_on_target": True})
    worker = FakeWorker(client)
    worker.take(1)
    worker.finish(next(iter(worker.held.values())))
    state(client, "completed")
    assert client.patch(AT, json={"run_cap": 9}).json()["state"] == "completed"
    worker.sync(free=0)
    worker.sync(free=0)
    cancelled = [t["number"] for t in client.get(f"{AT}/trials?state=cancelled").json()["items"]]
    answer = client.post(f"{AT}/trials/{cancelled[0]}/retry")
    assert answer.status_code == 409 and "the target" in answer.json()["detail"]


# Clone


def test_a_clone_is_another_study_with_the_same_document(client: TestClient) -> None:
    submit(client, tags=["t"], enqueue=[{"optimizer": "sgd", "lr": 0.5}])
    first = client.post(f"{AT}/clone")
    assert first.status_code == 201, first.text
    assert first.json()["name"] == "small-2"
    assert {**first.json()["document"], "name": ""} == {**study(client)["document"], "name": ""}
    wish = {"changes": {"budget": {"examples_per_trial": 320}, "optimizers": ["muon"], "enqueue": None, "tags": None}}
    second = client.post(f"{AT}/clone", json=wish).json()
    assert (second["name"], second["examples_per_trial"], second["optimizers"]) == ("small-3", 320, ["muon"])
    assert second["document"]["tags"] == [] and second["document"]["budget"]["max_failed"] == 10
    assert client.post(f"{AT}/clone", json={"name": "mine"}).json()["name"] == "mine"
    assert client.post(f"{AT}/clone", json={"name": "mine"}).status_code == 409
    assert set(faults(client.post(f"{AT}/clone", json={"changes": {"run_cap": 0, "x": 1}}))) == {"run_cap", "x"}
    assert client.post("/api/v1/studies/none/clone").status_code == 404


def test_a_clones_name_fits(client: TestClient) -> None:
    name = "a" * 64
    submit(client, name=name)
    assert client.post(f"/api/v1/studies/{name}/clone").json()["name"] == "a" * 62 + "-2"


# Enqueue


def enqueue(client: TestClient, key: str | None = None, **params: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"{AT}/trials", json={"params": params}, headers=headers)


def test_a_given_configuration_is_trained_before_proposals_that_wait(client: TestClient) -> None:
    submit(client, run_cap=6, parallel=4)
    wait_for(lambda: study(client)["counts"].get("queued") == 4)
    answer = enqueue(client, optimizer="sgd", lr=0.25, batch_size=16)
    assert answer.status_code == 201, answer.text
    given = answer.json()
    assert (given["number"], given["origin"], given["state"]) == (4, "enqueued", "queued")
    assert given["params"]["lr"] == 0.25 and given["total_steps"] == 40
    (first,) = FakeWorker(client).take(1)
    assert first["number"] == 4 and first["params"] == given["params"]


def test_a_batch_size_of_its_own_has_a_stack_of_its_own_and_goes_first(client: TestClient) -> None:
    submit(client, run_cap=6, parallel=2)
    wait_for(lambda: study(client)["counts"].get("queued") == 2)
    assert enqueue(client, optimizer="adamw", batch_size=20).status_code == 201
    (first,) = FakeWorker(client).take(1)
    assert (first["number"], first["params"]["batch_size"], first["micro_batch"]) == (2, 20, 10)
    assert enqueue(client, optimizer="adamw", batch_size=48).status_code == 201
    assert {t["number"] for t in client.get(f"{AT}/trials").json()["items"]} == {0, 1, 2, 3}


def test_faults_are_named_by_field(client: TestClient) -> None:
    submit(client)
    found = faults(enqueue(client, optimizer="sgd", lr=-1, bs=3, batch_size=10_000))
    assert set(found) == {"params.lr", "params.bs"} and "did you mean 'batch_size'" in found["params.bs"]
    assert set(faults(client.post(f"{AT}/trials", json={}))) == {"params"}
    assert set(faults(client.post(f"{AT}/trials", json={"params": {"lr": [1]}}))) == {"params.lr"}


def test_a_key_makes_one_trial_however_often_it_is_sent(client: TestClient) -> None:
    submit(client, run_cap=9)
    first = enqueue(client, "once", optimizer="sgd", lr=0.1).json()
    assert enqueue(client, "once", optimizer="sgd", lr=0.1).json()["number"] == first["number"]
    assert enqueue(client, "once", optimizer="sgd", lr=0.2).status_code == 409
    assert enqueue(client, "", optimizer="sgd").status_code == 422
    assert enqueue(client, "other", optimizer="sgd", lr=0.1).json()["number"] != first["number"]


def test_twenty_at_once_are_exact_at_the_cap(client: TestClient) -> None:
    """Of a paused study, so that no proposal takes a place; each of 20 requests gets a number of its own, or 409."""
    submit(client, run_cap=12, parallel=1)
    wait_for(lambda: study(client)["counts"].get("queued") == 1)
    client.post(f"{AT}/pause")
    answers: list[Any] = []

    def one(number: int) -> None:
        answers.append(enqueue(client, optimizer="sgd", lr=0.01 * (number + 1)))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201] * 11 + [409] * 9
    assert sorted(a.json()["number"] for a in answers if a.status_code == 201) == list(range(1, 12))
    assert "raise run_cap" in next(a for a in answers if a.status_code == 409).json()["detail"]


def test_enqueueing_into_an_ended_study_says_what_to_do_first(client: TestClient) -> None:
    submit(client, run_cap=1, parallel=1)
    finish_all(client, FakeWorker(client), 1)
    state(client, "completed")
    assert "raise run_cap" in enqueue(client, optimizer="sgd").json()["detail"]
    client.delete(AT)
    submit(client, run_cap=3)
    client.post(f"{AT}/stop")
    answer = enqueue(client, optimizer="sgd")
    assert answer.status_code == 409 and "resume it first" in answer.json()["detail"]


def test_a_documents_own_configurations_are_its_first_trials(client: TestClient) -> None:
    given = [{"optimizer": "sgd", "lr": 0.5, "batch_size": 20}, {"optimizer": "adamw"}]
    submit(client, run_cap=4, parallel=4, enqueue=given, workload={"name": "digits-mlp", "params": {"hidden": 16}})
    wait_for(lambda: study(client)["counts"].get("queued") == 4)
    shown = client.get(f"{AT}/trials").json()["items"]
    assert [t["origin"] for t in shown] == ["enqueued", "enqueued", "proposed", "proposed"]
    assert (shown[0]["params"]["lr"], shown[1]["optimizer"]) == (0.5, "adamw")
    assert study(client)["document"]["enqueue"] == given


def test_proposals_are_those_of_a_study_without_given_configurations(client: TestClient) -> None:
    for name, own in (("small", [{"optimizer": "sgd"}]), ("plain", [])):
        submit(client, name=name, run_cap=4 + len(own), parallel=9, enqueue=own)
        wait_for(lambda name=name, own=own: study(client, name)["counts"].get("queued") == 4 + len(own))  # type: ignore[misc]
    found = [
        [t["params"] for t in client.get(f"/api/v1/studies/{name}/trials").json()["items"] if t["origin"] == "proposed"]
        for name in ("small", "plain")
    ]
    assert found[0] == found[1]


def test_the_sampler_is_shown_what_users_gave(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    server = client.app.state.server  # type: ignore[attr-defined]
    ask = server.asker.ask
    monkeypatch.setattr(server.asker, "ask", lambda request: [asked.append(request), ask(request)][1])
    submit(client, method="tpe", optimizers=["sgd"], run_cap=4, parallel=1, enqueue=[{"lr": 0.5}])
    worker = FakeWorker(client)
    finish_all(client, worker, 1, value=0.125)
    wait_for(lambda: any(0 in request.history for request in asked))
    seen = next(request.history[0] for request in asked if 0 in request.history)
    assert seen.params["lr"] == 0.5
    wait_for(lambda: any(r.history.get(0) and r.history[0].value == 0.125 for r in asked))


def test_a_retried_submission_is_the_same_study_after_it_was_changed(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/api/v1/studies", json=study_document(), headers=headers).json()
    client.patch(AT, json={"run_cap": 9})
    again = client.post("/api/v1/studies", json=study_document(), headers=headers)
    assert again.status_code == 201 and again.json()["id"] == first["id"]
    other = client.post("/api/v1/studies", json=study_document(seed=1), headers=headers)
    assert other.status_code == 409


# Retry


@pytest.mark.parametrize("ending", [{"outcome": "error", "error": "boom"}, {"infeasible": "diverged"}])
def test_an_ended_trial_is_tried_again_and_its_study_goes_on(client: TestClient, ending: dict[str, Any]) -> None:
    submit(client, run_cap=2, parallel=2, retry={"max": 0})
    worker = FakeWorker(client)
    first, second = worker.take(2)
    worker.finish(first)
    worker.finish(second, None, **ending)
    state(client, "completed")
    number = second["number"]
    detail = client.get(AT).json()  # what is kept of the study must not hide that the trial goes on
    assert detail["counts"]["completed"] == 1
    answer = client.post(f"{AT}/trials/{number}/retry")
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["state"], shown["reason"], shown["value"], shown["finished_at"]) == ("queued", None, None, None)
    assert study(client)["state"] == "running" and study(client)["counts"] == {"completed": 1, "queued": 1}
    (again,) = worker.take(1)
    assert (again["number"], again["attempt"]) == (number, 2)
    worker.finish(again, 0.25)
    state(client, "completed")
    assert study(client)["counts"] == {"completed": 2} and trial(client, number)["value"] == 0.25
    assert client.get(f"{AT}/leaderboard").json()["rows"][0]["completed"] in (1, 2)
    assert client.post(f"{AT}/trials/{number}/retry").status_code == 409


def test_a_retried_trial_goes_on_from_its_last_checkpoint_and_fails_as_often_as_at_first(client: TestClient) -> None:
    submit(client, run_cap=1, parallel=1, retry={"max": 1})
    worker = StoringWorker(client)
    (held,) = worker.take(1)
    worker.checkpoint(held, 10)
    for boom in ("one", "two"):
        worker.finish(held, None, outcome="error", error=boom)
        if boom == "one":
            (held,) = worker.take(1)
    state(client, "failed")
    client.app.state.server.retention.sweep()  # type: ignore[attr-defined]
    assert client.post(f"{AT}/trials/0/retry").json()["step"] == 10
    assert study(client)["state"] == "running"
    (held,) = worker.take(1)
    assert held["resume"]["step"] == 10 and held["attempt"] == 3
    worker.finish(held, None, outcome="error", error="three")
    assert trial(client, 0)["state"] == "queued", "failures before do not count any more"
    (held,) = worker.take(1)
    worker.finish(held, 0.5)
    state(client, "completed")


def test_a_trial_that_diverged_begins_from_zero(client: TestClient) -> None:
    submit(client, run_cap=1, parallel=1)
    worker = StoringWorker(client)
    (held,) = worker.take(1)
    worker.checkpoint(held, 10)
    worker.finish(held, None, infeasible="diverged")
    state(client, "completed")
    assert client.post(f"{AT}/trials/0/retry").json()["step"] == 0
    (held,) = worker.take(1)
    assert held["resume"] is None and held["attempt"] == 2
    assert [data["why"] for data in changes(client, "trial.requeued")] == ["tried again by a user"]


def test_a_study_that_gave_up_does_not_give_up_again_at_once(client: TestClient) -> None:
    """More trials failed than `max_failed`: those before its user let it go on do not count."""
    submit(client, run_cap=9, parallel=4, retry={"max": 0}, budget={"examples_per_trial": 640, "max_failed": 2})
    worker = FakeWorker(client)
    held = worker.take(4)
    for one in held[:3]:
        worker.held.pop((one["trial"], one["attempt"]))
    words = [{k: one[k] for k in ("trial", "attempt", "token")} for one in held[:3]]
    worker.sync(free=0, finished=[{**w, "outcome": "error", "error": f"x{w['trial']}"} for w in words])
    state(client, "failed")
    number = held[0]["number"]
    assert client.post(f"{AT}/trials/{number}/retry").status_code == 200
    for _ in range(5):
        client.app.state.server.conductor.tasks[1].work()  # type: ignore[attr-defined]
    assert study(client)["state"] == "running"
    assert client.post(f"{AT}/resume").json()["state"] == "running"


def test_a_trial_of_a_stopped_study_waits_for_its_study(client: TestClient) -> None:
    submit(client, run_cap=2)
    wait_for(lambda: study(client)["counts"].get("queued") == 2)
    assert client.post(f"{AT}/trials/0/retry").status_code == 409
    client.post(f"{AT}/trials/0/stop")
    client.post(f"{AT}/pause")
    assert client.post(f"{AT}/trials/0/retry").json()["state"] == "queued", "and waits, for the study is paused"
    assert study(client)["state"] == "paused"
    client.post(f"{AT}/stop")
    answer = client.post(f"{AT}/trials/0/retry")
    assert answer.status_code == 409 and "resume it first" in answer.json()["detail"]
    assert client.post(f"{AT}/trials/7/retry").status_code == 404


def test_a_failed_study_goes_on_when_it_is_resumed(client: TestClient) -> None:
    submit(client, run_cap=4, parallel=2, retry={"max": 0}, budget={"examples_per_trial": 640, "max_failed": 1})
    worker = FakeWorker(client)
    first, _ = worker.take(2)
    worker.finish(first, None, outcome="error", error="boom")
    state(client, "failed")
    worker.sync(free=0)
    worker.sync(free=0)
    assert client.post(f"{AT}/resume").json()["state"] == "running"
    counts = study(client)["counts"]
    assert counts["failed"] == 1 and "cancelled" not in counts
