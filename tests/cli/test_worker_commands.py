"""`tuner drain` and `tuner release`, against the real app."""

from collections.abc import Callable

from fake_worker import FakeWorker
from fastapi.testclient import TestClient
from typer.testing import Result


def test_a_worker_is_drained_by_name_or_id(app: TestClient, tuner: Callable[..., Result]) -> None:
    worker = FakeWorker(app)
    said = tuner("drain", "fake")
    assert (said.exit_code, said.stderr) == (0, f"fake (worker {worker.id}) hands back 0 trials and leaves\n")
    assert '"state": "draining"' in tuner("drain", str(worker.id), "--json").stdout
    assert "draining" in tuner("workers").stdout
    other = FakeWorker(app, session="another-session-1")
    both = tuner("drain", "fake")
    assert both.exit_code == 2
    assert f"2 workers are named 'fake': give an id, {other.id}, {worker.id}" in both.stderr
    assert tuner("release", str(other.id)).stderr == f"fake (worker {other.id}) is idle\n"


def test_who_is_not_there_cannot_be_drained(app: TestClient, tuner: Callable[..., Result]) -> None:
    assert "no worker named 'nobody' is there" in tuner("drain", "nobody").stderr
    assert tuner("drain", "99").exit_code == 1
