"""What the engine reports of a task reaches the advice on batch sizes."""

import math
from typing import Any

import pytest
from fake_worker import FakeWorker, report
from fastapi.testclient import TestClient
from study_documents import study_document


@pytest.mark.parametrize(
    ("program", "factor"),
    [
        ({"kind": "classification"}, "8.2"),
        ({"kind": "regression"}, "8.2"),
        ({"kind": "other"}, "180"),
        ({"kind": "of a later version"}, "180"),
        ({}, "180"),
        ({"kind": "language"}, None),
    ],
)
def test_the_kind_of_task_chooses_the_prior(client: TestClient, program: dict[str, Any], factor: str | None) -> None:
    advice = advice_after(client, {"train_examples": 1437, **program})
    if factor is None:
        assert "only a lower bound" in advice["grade_meaning"] and advice["interval"][1] == "Infinity"
    else:
        assert f"varied by a factor of {factor} in either direction" in advice["grade_meaning"] and math.isfinite(
            advice["interval"][1]
        )


@pytest.mark.parametrize("dependent", [False, True])
def test_examples_that_share_statistics_are_noted(client: TestClient, dependent: bool) -> None:
    advice = advice_after(client, {"batch_dependent": True} if dependent else {})
    assert any("batch normalisation" in note for note in advice["notes"]) is dependent


def advice_after(client: TestClient, program: dict[str, Any]) -> dict[str, Any]:
    """Return the advice of a study whose first trial has completed with this program."""
    assert client.post("/api/v1/studies", json=study_document()).status_code == 201
    worker = FakeWorker(client)
    held = worker.take(4)
    sums = [{"n": 5, "s": 50 + i, "q": 5, "ss": 520 + i, "qq": 6, "sq": 50} for i in range(8)]
    rows = [{**report(held[0], 5 + 5 * i, valid_loss=1.0), "noise": noise} for i, noise in enumerate(sums)]
    worker.sync(free=0, reports=rows)
    worker.finish(held[0], value=None, program=program)
    advice: dict[str, Any] = client.get("/api/v1/studies/small/batch-advice").json()["items"][0]
    return advice
