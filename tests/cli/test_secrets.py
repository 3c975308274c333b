"""Secrets: never an option of a command, never in what a command prints."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tuner.launchers.local import LocalWorkers
from tuner.token import token_of

Run = Callable[..., Result]


def test_a_token_is_no_option(tuner: Run) -> None:
    for command in ("serve", "worker", "studies", "submit", "watch"):
        result = tuner(command, "--token", "a-secret-of-some-length")
        assert result.exit_code == 2
        assert "--token-file" in result.stderr


def test_a_database_password_is_no_option(tuner: Run) -> None:
    for url in (
        "postgresql+psycopg://me:hunter2@db/x",
        "postgresql://me:hun/ter2@db/x",
        "postgresql://db/x?password=a",
    ):
        result = tuner("serve", "--db", url)
        assert result.exit_code == 2
        assert "TUNER_DATABASE_URL" in result.stderr
        assert "hun" not in result.stderr


def test_local_workers_get_secrets_in_their_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_TOKEN_FILE", "elsewhere")
    store = {"TUNER_CHECKPOINTS": "s3://key:secret@bucket/x"}
    worker = LocalWorkers("http://127.0.0.1:1", "the-token", 4, tmp_path, environment=store)._worker("cpu", "cpu", None)
    assert not any("the-token" in word or "secret" in word for word in worker.command)
    assert (token_of(worker.environment), worker.environment["TUNER_CHECKPOINTS"]) == ("the-token", *store.values())


def test_a_password_in_the_address_of_a_server_is_not_shown(tuner: Run) -> None:
    for server in ("http://me:hunter2@127.0.0.1:9", "ftp://me:hunter2@127.0.0.1:9"):
        result = tuner("studies", "--server", server)
        assert result.exit_code in (2, 3)
        assert "hunter2" not in result.output
        assert "127.0.0.1:9" in result.output
