"""`tuner token` and `tuner history`, against the real app."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient
from study_documents import study_document
from typer.testing import Result


def test_from_an_open_server_to_a_closed_one_and_back(
    app: TestClient, tuner: Callable[..., Result], tmp_path: Path
) -> None:
    admin, worker = tmp_path / "admin.token", tmp_path / "worker.token"
    made = tuner("token", "create", "me", "--role", "admin", "-o", str(admin))
    assert made.exit_code == 0, made.output
    assert "from now on this server asks everybody for a token" in made.stderr
    assert made.stdout == ""
    assert oct(os.stat(admin).st_mode & 0o777) == "0o600"
    assert tuner("token", "list").exit_code == 1
    own = ("--token-file", str(admin))
    more = tuner("token", "create", "farm [1]", "--role", "worker", "--expires-days", "9", "-o", str(worker), *own)
    assert more.exit_code == 0, more.output
    listed = tuner("token", "list", *own)
    assert "farm [1]" in listed.stdout
    assert "never" in listed.stdout
    items = json.loads(tuner("token", "list", "--json", *own).stdout)["items"]
    assert [token["label"] for token in items] == ["me", "farm [1]"]
    assert "is revoked" in tuner("token", "revoke", "2", *own).stderr
    assert "is revoked" in tuner("token", "revoke", "1", *own).stderr
    assert tuner("studies").exit_code == 0


def test_a_secret_goes_to_standard_output_and_never_over_a_file(
    app: TestClient, tuner: Callable[..., Result], tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    refused = tuner("token", "create", "me", "--role", "admin", "-o", str(there))
    assert (refused.exit_code, there.read_text()) == (2, "mine")
    assert tuner("studies").exit_code == 0  # no token was created for it
    shown = tuner("token", "create", "me", "--role", "admin")
    secret = shown.stdout.strip()
    assert secret.startswith("tuner_")
    assert secret not in shown.stderr
    (tmp_path / "token").write_text(secret)
    assert tuner("studies", "--token-file", str(tmp_path / "token")).exit_code == 0


def test_a_failed_request_leaves_no_file(app: TestClient, tuner: Callable[..., Result], tmp_path: Path) -> None:
    refused = tuner("token", "create", "me", "--role", "viewer", "-o", str(tmp_path / "token"))
    assert refused.exit_code == 1
    assert "create an admin's first" in refused.stderr
    assert not list(tmp_path.glob("token*"))
    wrong = tuner("token", "create", "me", "--role", "root")
    assert wrong.exit_code == 2
    assert "role" in wrong.stderr


def test_history_tells_what_happened(app: TestClient, tuner: Callable[..., Result]) -> None:
    app.post("/api/v1/studies", json=study_document(name="mine"))
    app.post("/api/v1/studies/mine/stop")
    shown = tuner("history", "mine", "--limit", "1")
    assert "study.stopped" in shown.stdout
    assert "study.running" not in shown.stdout
    assert "study.running" in tuner("history", "mine", "--json").stdout
