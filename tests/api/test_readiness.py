"""/readyz tells the truth: database, sampler, background tasks, disks; and every request has an id."""

import json
import logging
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from over_http import submit, wait_for

from api import readiness
from api.conductor.asker import Asker
from tuner import logs

NAMES = ["database", "sampler", "tasks", "data", "checkpoints"]


@pytest.fixture
def database_url() -> None:
    """SQLite alone."""


def wrong(client: TestClient) -> dict[str, str]:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "tuner:not-ready")
    assert answer.headers["Retry-After"]
    return {fault["field"]: fault["message"] for fault in answer.json()["errors"]}


def test_a_server_that_is_well_is_ready(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert [check["name"] for check in answer.json()["checks"]] == NAMES
    assert all(check["ok"] for check in answer.json()["checks"])


def test_a_deleted_database_is_not_ready(client: TestClient) -> None:
    file = client.app.state.server.database._file  # type: ignore[attr-defined]
    file.rename(f"{file}.away")
    # A connection that is opened meanwhile makes an empty file in its place.
    assert re.search("was deleted|was replaced", wrong(client)["database"])


def test_a_sampler_that_fails_is_not_ready_until_it_answers_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Asker._answer
    monkeypatch.setattr(Asker, "_answer", lambda self, request: {"error": "out of order"})
    submit(client, name="mine", method="tpe")
    wait_for(lambda: client.get("/readyz").status_code == 503)
    assert "out of order" in wrong(client)["sampler"]
    monkeypatch.setattr(Asker, "_answer", real)
    submit(client, name="yours", method="tpe")
    wait_for(lambda: client.get("/readyz").status_code == 200)


def test_a_background_task_that_keeps_failing_is_not_ready(client: TestClient) -> None:
    task = client.app.state.server.conductor.tasks[0]  # type: ignore[attr-defined]

    def broken() -> None:
        raise ValueError("no")

    task.work = broken
    wait_for(lambda: task.failures >= readiness.ROUNDS)
    assert wrong(client)["tasks"].startswith("expiry failed ")


def test_a_full_disk_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda place: SimpleNamespace(free=3 * 2**20))
    found = wrong(client)
    assert set(found) == {"data", "checkpoints"}
    assert "3 MiB are free, 64 are needed" in found["data"]


@pytest.mark.parametrize(("given", "kept"), [("trace-1:2", True), ("a" * 65, False), ("a b", False), ("", False)])
def test_every_response_has_the_callers_id_or_one_of_ours(client: TestClient, given: str, kept: bool) -> None:
    for path in ("/api/v1/studies", "/api/v1/none", "/healthz"):
        told = client.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"]
        assert (told == given) is kept
        assert told


def test_log_lines_name_the_request_and_the_study(
    serve_app: Callable[..., TestClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve_app(token="the shared token of this test")
    client.headers["Authorization"] = "Bearer the shared token of this test"
    submit(client, name="mine")
    logs.configure("json")
    client.post("/api/v1/studies/mine/stop", headers={"X-Request-ID": "trace-1"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [line for line in lines if line.get("action") == "asked"]
    assert (line["request"], line["study"], line["by"]) == ("trace-1", "mine", "TUNER_TOKEN")
    logging.getLogger(__name__).warning("outside")
    assert "request" not in json.loads(capsys.readouterr().err.splitlines()[-1])
