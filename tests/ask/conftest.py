"""Loops over the trials of an app in this process, on SQLite and on PostgreSQL; their checkpoints have a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from in_process import Forwarding, client_of

from tuner.client import Client


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("emptied_postgresql")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def both(client: TestClient) -> Iterator[tuple[Client, Forwarding]]:
    own, between = client_of(client)
    with own:
        yield own, between


@pytest.fixture
def tuned(both: tuple[Client, Forwarding]) -> Client:
    return both[0]
