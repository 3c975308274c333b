"""Studies of the user's own code through every reader of the API, with and without a learning rate and a batch size."""

from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from over_http import wait_for

from api.figures import FIGURES

BARE: dict[str, Any] = {"depth": {"min": 1, "max": 9, "integer": True}, "kind": {"values": ["a", "b"]}}
USUAL: dict[str, Any] = {
    "lr": {"min": 1e-3, "max": 1.0, "scaling": "log"},
    "batch_size": {"values": [16, 64]},
    "kind": {"values": ["a", "b"]},
}


class OwnCode(FakeWorker):
    """A worker that runs the user's own code."""

    workload = "external"


def submit(client: TestClient, **changes: Any) -> dict[str, Any]:
    document = {"name": "own", "workload": "external", "metric": "loss", "parameters": BARE, "run_cap": 4, **changes}
    answer = client.post("/api/v1/studies", json=document)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def finish_all(client: TestClient, worker: FakeWorker, *, examples: bool, noise: bool = False) -> None:
    sums = {"n": 5, "s": 50.0, "q": 5.0, "ss": 520.0, "qq": 6.0, "sq": 50.0}
    for count in range(4):
        (trial,) = worker.take(1)
        key = {"trial": trial["trial"], "attempt": trial["attempt"]}
        if noise:
            worker.sync(free=0, started=[{**key, "program": {"path": "own code", "micro_batch": 8}}])
        rows = [report(trial, step, loss=1 / (step + count)) for step in (1, 2, 3)]
        rows = [{**row, "examples": row["examples"] * examples, **({"noise": sums} if noise else {})} for row in rows]
        worker.sync(free=0, reports=rows)
        worker.finish(trial, None, step=3, examples=48 * examples)
    wait_for(lambda: client.get("/api/v1/studies/own").json()["state"] == "completed")


def read_everything(client: TestClient) -> dict[str, Any]:
    """Read all that a page shows."""
    at, found = "/api/v1/studies/own", {}
    paths = ["", "/trials", "/trials/0", "/trials/0/curve", "/best", "/leaderboard", "/batch-advice"]
    paths += [f"/figures/{name}" for name in FIGURES] + ["/trials/0/figures/noise"]
    for path in paths:
        answer = client.get(at + path)
        assert answer.status_code == 200, (path, answer.text)
        found[path] = answer.json()
    return found


def test_an_external_study_runs_to_its_end_and_every_page_copes(client: TestClient) -> None:
    shown = submit(client)
    assert shown["workload"] == "external" and shown["optimizers"] == ["external"]
    assert shown["examples_per_trial"] is None and shown["swept"] == {"external": ["depth", "kind"]}
    finish_all(client, OwnCode(client), examples=False)
    found = read_everything(client)
    trial = found["/trials/0"]
    assert set(trial["params"]) == {"depth", "kind"} and trial["optimizer"] == "external"
    assert trial["total_examples"] is trial["total_steps"] is None and trial["step"] == 3
    assert found["/best"]["trial"]["number"] == 3 and found["/best"]["trial"]["value"] == pytest.approx(1 / 6)
    scope: dict[str, Any] = {}
    exec(found["/best"]["snippet"], scope)
    assert scope["params"] == found["/best"]["trial"]["params"]
    assert [row["optimizer"] for row in found["/leaderboard"]["rows"]] == ["external"]
    advice = found["/batch-advice"]["items"][0]
    assert advice["grade"] == "none" and "no hyperparameters batch_size and lr" in advice["headline"]
    assert "tuner.noise.Meter" in advice["next_experiment"]
    assert "steps" in str(found["/figures/curves"]["layout"]["xaxis"])
    assert "have no lr" in str(found["/figures/loss_vs_lr"])


def test_a_learning_rate_and_a_batch_size_are_drawn_and_noise_is_advised_on(client: TestClient) -> None:
    submit(client, parameters=USUAL, budget={"examples_per_trial": 640})
    finish_all(client, OwnCode(client), examples=True, noise=True)
    found = read_everything(client)
    assert found["/trials/0"]["total_examples"] == 640 and found["/trials/0"]["total_steps"] in (10, 40)
    assert "examples" in str(found["/figures/curves"]["layout"]["xaxis"]) and found["/figures/loss_vs_lr"]["data"]
    (item,) = found["/batch-advice"]["items"]
    assert item["noise_scale"]["steps"] == 15 and item["noise_scale"]["value"] == pytest.approx(10.0)


def test_an_engines_worker_gets_no_trial_of_it(client: TestClient) -> None:
    submit(client)
    wait_for(lambda: client.get("/api/v1/studies/own").json()["counts"])
    assert FakeWorker(client).sync(free=4, wait_s=0.0).assign == []
    assert len(OwnCode(client, "own-session-00000001").sync(free=1).assign) == 1


def test_what_it_waits_for_is_said(client: TestClient) -> None:
    submit(client)
    wait_for(lambda: client.get("/api/v1/studies/own").json()["counts"])
    FakeWorker(client)
    wait_for(lambda: client.get("/api/v1/studies/own", headers={"cache-control": "no-cache"}).json()["notice"], 10)
    assert "Client().ask('own')" in client.get("/api/v1/studies/own").json()["notice"]


@pytest.mark.parametrize("missing", ["parameters", "metric"])
def test_what_is_missing_is_refused_by_field(client: TestClient, missing: str) -> None:
    document = {"name": "own", "workload": "external", "metric": "loss", "parameters": BARE, "run_cap": 4}
    del document[missing]
    answer = client.post("/api/v1/studies", json=document)
    assert answer.status_code == 422 and [error["field"] for error in answer.json()["errors"]] == [missing]


def test_the_catalogue_names_it(client: TestClient) -> None:
    assert "external" in [each["name"] for each in client.get("/api/v1/catalogue").json()["workloads"]]


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_result_that_is_not_finite_is_infeasible(client: TestClient, value: str) -> None:
    submit(client)
    worker = OwnCode(client)
    (trial,) = worker.take(1)
    worker.finish(trial, value)  # type: ignore[arg-type]
    shown = client.get("/api/v1/studies/own/trials/0").json()
    assert (shown["state"], shown["reason"], shown["value"]) == ("infeasible", "diverged", None)


def test_an_error_is_tried_again_unless_it_is_final(client: TestClient) -> None:
    submit(client)
    worker = OwnCode(client)
    for number, final in ((0, False), (1, True)):
        (trial,) = [each for each in worker.take(1) if each["number"] == number]
        worker.finish(trial, None, outcome="error", error=f"ValueError: no {number}", final=final)
        state = client.get(f"/api/v1/studies/own/trials/{number}").json()["state"]
        assert state == ("failed" if final else "queued")
        if not final:
            (again,) = worker.take(1)
            assert (again["number"], again["attempt"]) == (0, 2)
            worker.finish(again, 0.5)


def test_a_session_takes_the_trials_of_its_study_alone(client: TestClient) -> None:
    submit(client)
    submit(client, name="other")
    opened = client.post("/api/v1/studies/other/ask", json={"session": "s" * 16}).json()
    again = client.post("/api/v1/studies/other/ask", json={"session": "s" * 16}).json()
    assert opened == again and (opened["study"], opened["state"]) == ("other", "running")
    for seq in (1, 2, 3):
        body = {"session": "s" * 16, "seq": seq, "wait_s": 5, "capacity": [{"device": "own", "free": seq}]}
        reply = client.post(f"/api/v1/workers/{opened['worker']}/sync", json=body).json()
        assert {each["study"] for each in reply["assign"]} == {"other"} and reply["study"] == "running"
    assert client.post("/api/v1/studies/other/ask").json()["worker"] != opened["worker"]
    assert client.post("/api/v1/studies/none/ask").status_code == 404
    assert client.delete("/api/v1/studies/other").status_code == 204
    body = {"session": "s" * 16, "seq": 9, "capacity": [{"device": "own", "free": 1}]}
    assert client.post(f"/api/v1/workers/{opened['worker']}/sync", json=body).status_code == 404


def test_the_end_of_what_a_trial_printed_is_kept_by_attempt(client: TestClient) -> None:
    submit(client)
    worker = OwnCode(client)
    (trial,) = worker.take(1)
    key = {"trial": trial["trial"], "attempt": trial["attempt"]}
    at = "/api/v1/studies/own/trials/0/log"
    assert client.get(at).json() | {"updated_at": None} == {
        "study": "own", "number": 0, "attempt": 1, "text": "", "written": 0, "updated_at": None
    }  # fmt: skip
    for text in ("first", "first\nsecond \u00e4\n"):
        worker.sync(free=0, logs=[{**key, "text": text, "written": len(text)}])
        assert client.get(at).json()["text"] == text
    worker.sync(free=0, logs=[{**key, "text": "last", "written": 900}])
    worker.finish(trial, None, outcome="crashed", error="signal 9")
    (again,) = worker.take(1)
    assert again["attempt"] == 2 and client.get(at).json()["attempt"] == 1
    worker.sync(free=0, logs=[{**key, "text": "too late", "written": 1}])
    assert client.get(at, params={"attempt": 1}).json()["text"] == "last", "the attempt has ended"
    assert client.get(at, params={"attempt": 1}).json()["written"] == 900
    assert client.get("/api/v1/studies/own/trials/99/log").status_code == 404
    body = {"text": "x" * 65_537, "written": 1, **key}
    body = {"session": worker.session, "seq": 99, "logs": [body]}
    assert client.post(f"/api/v1/workers/{worker.id}/sync", json=body).status_code == 422
