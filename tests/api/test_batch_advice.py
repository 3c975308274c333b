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


def test_a_model_that_depends_on_its_batch_says_why_nothing_was_measured_and_what_would(client: TestClient) -> None:
    advice = advice_after(client, {"batch_dependent": True, "micro_batch": "whole"}, noise=False)
    assert advice["grade"] == "none" and "trained in whole batches" in advice["headline"]
    assert "`micro_batch: 8` in the study document" in advice["next_experiment"]
    assert "tuner.noise.Meter(micro_batch=" in advice["next_experiment"]


def test_step_times_of_the_reader_add_the_fastest_batch(client: TestClient) -> None:
    without = advice_after(client, {"kind": "classification"})
    assert without["fastest"] is None and any("--measure" in note for note in without["notes"])
    path, times = "/api/v1/studies/small/batch-advice", "16=0.0116,64=0.0164,256=0.0356,1024=0.1124"
    (timed, *_) = client.get(path, params={"step_times": times}).json()["items"]
    assert 1 <= timed["fastest"]["low"] < timed["fastest"]["high"]
    assert any("as much time as 100 examples" in note for note in timed["notes"])
    other = {"step_times": times, "optimizer": "another"}
    for query in (other, {}):
        (again, *_) = client.get(path, params=query).json()["items"]
        assert again == without


@pytest.mark.parametrize(
    "times",
    ["", "16", "16=0.1", "16=a,64=1,256=2", f"{'9' * 900}=1,64=1,256=2", "16=1,16=2,64=1,256=1", "1=1e300,2=1,3=1"],
)
def test_step_times_that_say_nothing_are_refused(client: TestClient, times: str) -> None:
    assert client.post("/api/v1/studies", json=study_document()).status_code == 201
    answer = client.get("/api/v1/studies/small/batch-advice", params={"step_times": times})
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "step_times"


def advice_after(client: TestClient, program: dict[str, Any], noise: bool = True) -> dict[str, Any]:
    """Return the advice of a study whose first trial has completed with this program."""
    assert client.post("/api/v1/studies", json=study_document()).status_code == 201
    worker = FakeWorker(client)
    held = worker.take(4)
    sums = [{"n": 5, "s": 500 + i, "q": 5, "ss": 51_000 + i, "qq": 6, "sq": 500} for i in range(8)]
    rows = [{**report(held[0], 5 + 5 * i, valid_loss=1.0), "noise": s if noise else None} for i, s in enumerate(sums)]
    worker.sync(free=0, reports=rows)
    worker.finish(held[0], value=None, program=program)
    advice: dict[str, Any] = client.get("/api/v1/studies/small/batch-advice").json()["items"][0]
    return advice
