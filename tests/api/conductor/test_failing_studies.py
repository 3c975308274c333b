"""A study in which everything fails ends as failed, with the reason, after few trials."""

import time
from typing import Any

from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document

ERROR = "Traceback (most recent call last):\nValueError: the loss needs two inputs"


def submit(client: TestClient, **changes: Any) -> None:
    answer = client.post("/api/v1/studies", json=study_document(retry={"max": 0}, **changes))
    assert answer.status_code == 201, answer.text


def study(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/v1/studies/small").json()
    return found


def ended(client: TestClient) -> dict[str, Any]:
    until = time.monotonic() + 30
    while study(client)["state"] == "running":
        assert time.monotonic() < until, f"the study did not end: {study(client)}"
        time.sleep(0.02)
    return study(client)


def fail(worker: FakeWorker, count: int) -> None:
    for _ in range(count):
        worker.finish(worker.take(1)[0], value=None, outcome="error", error=ERROR)


def test_a_study_whose_first_trials_all_fail_ends_as_failed_with_the_reason(client: TestClient) -> None:
    submit(client, run_cap=50, parallel=1, budget={"examples_per_trial": 640, "max_failed": 3})
    fail(FakeWorker(client), 3)
    found = ended(client)
    assert found["state"] == "failed"
    assert found["reason"] == (
        "the first 3 trials all failed (budget.max_failed is 3): ValueError: the loss needs two inputs"
    )
    assert found["counts"]["failed"] == 3


def test_a_short_study_of_failures_alone_is_failed_and_not_completed(client: TestClient) -> None:
    submit(client, run_cap=2, parallel=2)
    fail(FakeWorker(client), 2)
    found = ended(client)
    assert (found["state"], found["reason"]) == ("failed", "all 2 trials failed: ValueError: the loss needs two inputs")


def test_one_result_keeps_a_study_going_whatever_fails_later(client: TestClient) -> None:
    submit(client, run_cap=5, parallel=1, budget={"examples_per_trial": 640, "max_failed": 2})
    worker = FakeWorker(client)
    fail(worker, 1)
    worker.finish(worker.take(1)[0], value=None, infeasible="diverged")
    fail(worker, 3)
    assert ended(client)["state"] == "completed"
