"""Submitting over HTTP, and waiting until something holds."""

import time
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient
from study_documents import study_document


def submit(client: TestClient, **changes: Any) -> int:
    """Submit a small study; return its id."""
    answer = client.post("/api/v1/studies", json=study_document(**changes))
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def wait_for(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Look again and again until the condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition did not hold in time"
        time.sleep(0.02)
