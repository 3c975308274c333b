"""Slot utilisation, server side: every row carries its attempt's counts so far, and the latest ones stand."""

from typing import Any

from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document


def submit(client: TestClient) -> None:
    answer = client.post("/api/v1/studies", json=study_document())
    assert answer.status_code == 201, answer.text


def utilisation(client: TestClient) -> float | None:
    found: float | None = client.get("/api/v1/studies/small").json()["slot_utilisation"]
    assert client.get("/api/v1/studies").json()["items"][0]["slot_utilisation"] == found
    return found


def row(held: dict[str, Any], step: int, ticks: int, computed: float) -> dict[str, Any]:
    return {**report(held, step, valid_loss=1.0), "ticks": ticks, "computed": computed}


def test_repeated_and_late_rows_change_nothing(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    one, other = worker.take(2)
    assert utilisation(client) is None
    worker.sync(free=0, reports=[row(one, 1, 60, 80.0)])
    assert utilisation(client) == 0.75
    worker.sync(free=0, reports=[row(one, 2, 90, 100.0)])
    worker.sync(free=0, reports=[row(one, 2, 90, 100.0)])
    worker.post({**worker.body(free=0, reports=[row(one, 1, 60, 80.0)]), "seq": 1})
    assert utilisation(client) == 0.9
    worker.sync(free=0, reports=[row(other, 1, 10, 400.0)])
    assert utilisation(client) == 100 / 500
    stranger = FakeWorker(client, session="fake-session-0002")
    stranger.sync(free=0, reports=[row(one, 3, 1000, 1000.0)])
    assert utilisation(client) == 100 / 500


def test_every_attempt_of_a_trial_counts(client: TestClient) -> None:
    submit(client)
    worker = FakeWorker(client)
    (first,) = worker.take(1)
    worker.sync(free=0, reports=[row(first, 1, 10, 20.0)])
    worker.finish(first, value=None, outcome="drained")
    again = next(held for held in worker.take(4) if held["trial"] == first["trial"])
    assert again["attempt"] == 2
    worker.sync(free=0, reports=[row(again, 1, 20, 20.0)])
    assert utilisation(client) == 30 / 40
