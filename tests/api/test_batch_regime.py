"""The evidence says in which batches a model was trained whose loss depends on them."""

from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ({"micro_batch": 4}, None),
        ({"micro_batch": "whole", "batch_dependent": True}, "trained in whole batches"),
        ({"micro_batch": 16, "batch_dependent": True}, "trained in whole batches"),
        ({"micro_batch": 4, "batch_dependent": True}, "asked for micro-batches of 4"),
    ],
)
def test_the_winners_evidence_names_the_batches(client: TestClient, program: dict[str, Any], said: str | None) -> None:
    document = study_document(run_cap=1, parallel=1, parameters={"batch_size": 16}, micro_batch=4)
    assert client.post("/api/v1/studies", json=document).status_code == 201
    worker = FakeWorker(client)
    (held,) = worker.take(1)
    assert held["micro_batch_asked"] is True and held["metric"] == "valid_loss"
    worker.finish(held, program=program)
    evidence = client.get("/api/v1/studies/small/best").json()["evidence"]
    assert ("depends on which examples share a batch" in evidence) == (said is not None)
    assert said is None or said in evidence
