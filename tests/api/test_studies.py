"""Studies over HTTP: submitting, listing, errors, results."""

import json

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from over_http import submit, wait_for
from study_documents import study_document


def test_a_wrong_document_is_answered_with_every_fault(client: TestClient) -> None:
    answer = client.post("/api/v1/studies", json=study_document(run_cap=0, workload="nope", optimizers=["sgdd"]))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "tuner:invalid-input"
    faults = {fault["field"]: fault["message"] for fault in problem["errors"]}
    assert set(faults) == {"run_cap", "workload", "optimizers[0]"}
    assert "known are digits-autoencoder" in faults["workload"]


@pytest.mark.parametrize("body", [b"{", b"[1]", b"3", b""])
def test_a_body_that_is_no_document_is_a_problem_not_a_crash(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/v1/studies", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "tuner:invalid-input"


def test_an_idempotency_key_submits_once(client: TestClient) -> None:
    key = {"Idempotency-Key": "k1"}
    first = client.post("/api/v1/studies", json=study_document(), headers=key)
    again = client.post("/api/v1/studies", json=study_document(), headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/api/v1/studies", json=study_document(run_cap=5), headers=key)
    assert other.status_code == 409
    assert client.post("/api/v1/studies", json=study_document()).json()["type"] == "tuner:name-taken"


def test_a_study_is_found_by_name_and_by_id(client: TestClient) -> None:
    submit(client)
    by_name = client.get("/api/v1/studies/small").json()
    assert client.get(f"/api/v1/studies/{by_name['id']}").json()["name"] == "small"
    assert by_name["document"]["method"] == "random"
    missing = client.get("/api/v1/studies/none")
    assert (missing.status_code, missing.json()["detail"]) == (404, "no study 'none'")


def test_lists_come_in_pages(client: TestClient) -> None:
    for i in range(5):
        submit(client, name=f"s{i}")
    first = client.get("/api/v1/studies?limit=3").json()
    rest = client.get(f"/api/v1/studies?limit=3&cursor={first['next_cursor']}").json()
    assert [s["name"] for s in first["items"] + rest["items"]] == ["s4", "s3", "s2", "s1", "s0"]
    assert rest["next_cursor"] is None
    assert client.get("/api/v1/studies?cursor=x").status_code == 422
    assert client.get("/api/v1/studies?limit=0").status_code == 422
    assert client.get("/api/v1/studies/s0/trials?sort=colour").json()["errors"][0]["field"] == "sort"


def test_results_before_and_after_the_first_trial(client: TestClient) -> None:
    submit(client)
    assert client.get("/api/v1/studies/small/best").status_code == 404
    assert client.get("/api/v1/studies/small/leaderboard").json()["grade"] == "none"
    wait_for(lambda: client.get("/api/v1/studies/small/trials/0").status_code == 200)
    assert client.get("/api/v1/studies/small/trials/0/figures/noise").json()["data"] == []
    assert {i["grade"] for i in client.get("/api/v1/studies/small/batch-advice").json()["items"]} == {"none"}
    worker = FakeWorker(client)
    held = worker.take(4)
    rows = [
        {**report(held[0], step, valid_loss=1 / step, odd="Infinity"), "noise": {"n": 5, **sums}}
        for step, sums in zip(
            range(5, 45, 5), [dict(s=50 + i, q=5, ss=520 + i, qq=6, sq=50) for i in range(8)], strict=True
        )
    ]
    worker.sync(free=0, reports=rows)
    worker.finish(held[0], value=None, program={"train_examples": 1437})
    best = client.get("/api/v1/studies/small/best").json()
    assert best["trial"]["value"] == pytest.approx(1 / 40)
    assert best["grade"] == "D"
    assert best["interval"] is None
    assert "one seed" in best["evidence"]
    assert f"total_steps = {held[0]['examples'] // held[0]['params']['batch_size']}" in best["snippet"]
    board = client.get("/api/v1/studies/small/leaderboard").json()
    assert board["rows"][0]["optimizer"] == held[0]["params"]["optimizer"]
    assert board["rows"][1]["best"] is None
    advice = client.get("/api/v1/studies/small/batch-advice").json()["items"][0]
    assert advice["grade"] == "D"
    assert advice["noise_scale"]["low"] < advice["noise_scale"]["value"] < advice["noise_scale"]["high"]
    curve = client.get(f"/api/v1/studies/small/trials/{held[0]['number']}/curve?metric=odd&points=3").json()
    assert curve["value"] == ["Infinity"] * 3
    assert curve["step"] == [5, 25, 40] or curve["step"] == [5, 20, 40]
    for name in ("curves", "loss_vs_lr", "lr_batch", "progress", "noise", "batch_advice"):
        figure = client.get(f"/api/v1/studies/small/figures/{name}").json()
        assert figure["data"], name
    assert "available are curves" in client.get("/api/v1/studies/small/figures/pie").json()["detail"]


def test_the_snippet_builds_the_tuned_optimizer(client: TestClient) -> None:
    import torch

    submit(client, optimizers=["muon"], parameters={"schedule": "wsd"}, run_cap=1)
    worker = FakeWorker(client)
    (held,) = worker.take(1)
    worker.finish(held)
    snippet = client.get("/api/v1/studies/small/best").json()["snippet"]
    scope = {"model": torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))}
    exec(snippet, scope)
    optimizer = scope["optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["initial_lr"] == held["params"]["lr"]
    assert optimizer.param_groups[0]["weight_decay"] == held["params"]["weight_decay"]


def test_events_follow_the_study_in_order(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    for held in worker.take(4):
        worker.finish(held)
    wait_for(lambda: client.get("/api/v1/studies/small").json()["state"] == "completed")
    client.app.state.server.hub.closing.set()  # type: ignore[attr-defined]
    assert client.get("/api/v1/studies/none/events").status_code == 404
    assert client.get("/api/v1/studies/small/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_the_catalogue_names_what_a_document_may_name(client: TestClient) -> None:
    found = client.get("/api/v1/catalogue").json()
    assert {"sgd", "adamw", "muon", "shampoo", "lbfgs"} <= {o["name"] for o in found["optimizers"]}
    assert {"constant", "cosine", "wsd", "one_cycle"} <= {s["name"] for s in found["schedules"]}
    assert all(o["memory"] and o["reference"] for o in found["optimizers"])
    assert {m["name"] for m in found["methods"]} == {"random", "quasirandom", "tpe"}
    lr = found["optimizers"][0]["hyperparameters"][0]
    assert lr["name"] == "lr"
    assert lr["search"]
    assert lr["source"]


def test_the_document_in_openapi_and_the_health_routes(client: TestClient) -> None:
    assert "/api/v1/studies/{study}/trials/{number}/curve" in json.dumps(client.get("/api/openapi.json").json())
    assert client.get("/healthz").json()["service"] == "tuner"
    assert client.get("/readyz").status_code == 200
