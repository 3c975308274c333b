"""The one line that says what a study needs, as the API gives it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from study_documents import study_document

from api import notices
from storage.database import Database
from tuner.wire.failures import headline

TRACEBACK = """Traceback (most recent call last):
  File "mine.py", line 3, in loss
    return a @ b
           ~~^~~
RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x64 and 32x10)
"""


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock that the server reads."""
    shift = timedelta()
    now = Database.now
    monkeypatch.setattr(Database, "now", lambda self, session: now(self, session) + shift)

    def move(seconds: float) -> None:
        nonlocal shift
        shift += timedelta(seconds=seconds)

    return move


def submit(client: TestClient, name: str, **changes: Any) -> None:
    answer = client.post("/api/v1/studies", json=study_document(name=name, retry={"max": 0}, **changes))
    assert answer.status_code == 201, answer.text


def wait_queued(client: TestClient, name: str) -> None:
    while not client.get(f"/api/v1/studies/{name}").json()["counts"].get("queued"):
        pass


def notice(client: TestClient, name: str) -> str | None:
    found = client.get(f"/api/v1/studies/{name}").json()
    listed = next(item for item in client.get("/api/v1/studies").json()["items"] if item["name"] == name)
    assert listed["waits_for"] == found["waits_for"]
    said: str | None = found["notice"]
    return said


def test_a_study_without_a_worker_says_so_after_a_moment(client: TestClient, later: Callable[[float], None]) -> None:
    submit(client, "alone")
    wait_queued(client, "alone")
    assert notice(client, "alone") is None
    later(notices.PATIENCE.total_seconds())
    assert notice(client, "alone") == "waiting for a worker: none is connected; start one with 'tuner worker'"
    worker = FakeWorker(client)
    assert notice(client, "alone") is None  # it is there, and gets its trials at its next sync
    later(16)  # and has been silent for more than a lease since
    assert (notice(client, "alone") or "").startswith("waiting for a worker: none is connected")
    worker.take(1)
    assert notice(client, "alone") is None


def test_a_workload_that_no_connected_worker_knows_is_named(client: TestClient, later: Callable[[float], None]) -> None:
    submit(client, "cnn", workload="digits-cnn")
    wait_queued(client, "cnn")
    later(notices.PATIENCE.total_seconds())
    FakeWorker(client)
    assert notice(client, "cnn") == (
        "waiting for a worker with the workload 'digits-cnn': those connected know digits-mlp; "
        "start one with 'tuner worker --workloads FILE'"
    )


def test_a_study_behind_another_names_it(client: TestClient) -> None:
    submit(client, "first")
    worker = FakeWorker(client)
    worker.take(4)
    submit(client, "second")
    wait_queued(client, "second")
    assert notice(client, "first") is None
    assert notice(client, "second") == "waiting for room on a worker: first has it now"


def test_failures_are_grouped_by_what_they_said(client: TestClient) -> None:
    submit(client, "broken")
    worker = FakeWorker(client)
    held = sorted(worker.take(4), key=lambda assignment: assignment["number"])
    for assignment in held[:2]:
        worker.finish(assignment, value=None, outcome="error", error=TRACEBACK)
    worker.finish(held[2], value=None, outcome="error", error="KeyError: 'x'")
    line = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x64 and 32x10)"
    assert notice(client, "broken") == f"no trial has completed, 3 failed: 2 x {line}, 1 x KeyError: 'x' (see trial 0)"
    worker.finish(held[3], value=0.5)
    assert notice(client, "broken") == f"3 of 4 trials failed: 2 x {line}, 1 x KeyError: 'x' (see trial 0)"
    assert client.get("/api/v1/studies/broken").json()["failures"] == [
        {"count": 2, "message": line, "trial": 0},
        {"count": 1, "message": "KeyError: 'x'", "trial": 2},
    ]


def test_a_study_in_which_everything_diverged_says_so(client: TestClient) -> None:
    submit(client, "wild")
    worker = FakeWorker(client)
    for assignment in worker.take(4):
        worker.finish(assignment, value=None, infeasible="diverged")
    assert notice(client, "wild") == "no trial has completed, 4 infeasible: 4 x diverged (see trial 0)"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TRACEBACK, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x64 and 32x10)"),
        (TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n" + TRACEBACK.replace(
            "RuntimeError", "my.Error"), "my.Error: mat1 and mat2 shapes cannot be multiplied (16x64 and 32x10)"),
        (TRACEBACK.rstrip() + "\n\tsize mismatch for a\n\tsize mismatch for b\n", TRACEBACK.splitlines()[-1]),
        ("the device process of cpu ended with signal 9", "the device process of cpu ended with signal 9"),
        ("ValueError: " + "x" * 1000, "ValueError: " + "x" * 185 + "..."),
        ("", ""),
    ],
)  # fmt: skip
def test_the_line_of_a_traceback_that_names_the_exception(error: str, line: str) -> None:
    assert headline(error) == line
