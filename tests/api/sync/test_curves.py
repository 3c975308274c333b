"""Rows of a request: new ones are stored without a look at the stored ones, all others are merged with them."""

import math
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from over_http import submit


@pytest.fixture
def worker(client: TestClient) -> FakeWorker:
    submit(client, parallel=1, metric="valid_loss")
    found = FakeWorker(client, width=1)
    found.take(1)
    return found


def curve(client: TestClient, metric: str) -> dict[int, float]:
    found = client.get("/api/v1/studies/small/trials/0/curve", params={"metric": metric}).json()
    return dict(zip(found["step"], found["value"], strict=True))


def ended(client: TestClient, worker: FakeWorker, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Finish the trial with these rows, without naming its value."""
    (held,) = worker.held.values()
    worker.held.clear()
    word = {name: held[name] for name in ("trial", "attempt", "token")}
    worker.sync(free=0, reports=rows, finished=[{**word, "outcome": "finished", "step": 9, "examples": 144}])
    found: dict[str, Any] = client.get("/api/v1/studies/small/trials/0").json()
    return found


def test_rows_that_come_again_late_or_twice_are_merged(client: TestClient, worker: FakeWorker) -> None:
    (held,) = worker.held.values()
    worker.sync(free=0, reports=[report(held, step, valid_loss=1.0 / step) for step in (2, 4)])
    again = [report(held, 4, accuracy=0.5), report(held, 3, valid_loss=0.3), report(held, 6, valid_loss=0.1)]
    worker.sync(free=0, reports=[*again, report(held, 6, accuracy=0.9), report(held, 5, valid_loss=0.2)])
    assert curve(client, "valid_loss") == {2: 0.5, 3: 0.3, 4: 0.25, 5: 0.2, 6: 0.1}
    assert curve(client, "accuracy") == {4: 0.5, 6: 0.9}


@pytest.mark.parametrize("metrics", [{"valid_loss": 0.25}, {"train_loss": 1.0}, {"valid_loss": math.nan}])
def test_the_value_is_that_of_the_stored_curve(
    client: TestClient, worker: FakeWorker, metrics: dict[str, float]
) -> None:
    (held,) = worker.held.values()
    last = report(held, 9, **{name: value if math.isfinite(value) else "nan" for name, value in metrics.items()})
    trial = ended(client, worker, [report(held, 3, valid_loss=0.75), last])
    if math.isnan(metrics.get("valid_loss", 0.0)):
        assert (trial["state"], trial["reason"], trial["value"]) == ("infeasible", "diverged", None)
    else:
        assert (trial["state"], trial["value"]) == ("completed", metrics.get("valid_loss", 0.75))


def test_a_step_that_is_reported_twice_counts_with_what_was_said_last(client: TestClient, worker: FakeWorker) -> None:
    (held,) = worker.held.values()
    trial = ended(client, worker, [report(held, 9, valid_loss=0.5), report(held, 9, valid_loss=0.25)])
    assert trial["value"] == 0.25
