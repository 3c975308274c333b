"""Fixtures for the whole suite: documents, databases and apps, fresh for every test."""

import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from fastapi.testclient import TestClient
from placement import COMPILED, ByGroup, group
from postgresql import (  # noqa: F401
    emptied_postgresql,
    postgresql,
    postgresql_template,
    postgresql_url,
    shared_postgresql,
)

from api.app import create_app, open_database
from api.settings import Settings
from api.waits import Waits
from storage.database import Database
from storage.migrate import upgrade

# Test processes share few cores, and so do the servers and workers that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What this machine has learned of its user's workloads is another matter; what it learns here is gone afterwards.
LEARNED = tempfile.TemporaryDirectory(prefix="tuner-learned-", ignore_cleanup_errors=True)
os.environ["XDG_CACHE_HOME"] = LEARNED.name
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

SLOW_FIRST = (COMPILED, "acceptance", "worker", "browser", "engine", "laws")
"""What takes longest begins first, so that no process is left with a long file at the end: by group or folder."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by group and folder; within one as collected."""
    ranks = {name: rank for rank, name in enumerate(SLOW_FIRST)}

    def rank(item: pytest.Item) -> int:
        names = [group(item.nodeid), *item.nodeid.split("/")]
        return next((ranks[name] for name in names if name in ranks), len(ranks))

    items.sort(key=rank)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give a process whole groups of tests."""
    return ByGroup(config, log)


def pytest_collection_finish() -> None:
    """Let no garbage collection look at the libraries and the collected tests again: a full one takes a second then."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran in this process did to logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema, to be copied: that takes a tenth of the time of making one."""
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture
def database_url() -> str | None:
    """Where the app keeps its data; None is SQLite in a folder of its own."""
    return None


@pytest.fixture
def serve_app(tmp_path: Path, database_url: str | None, sqlite_template: Path) -> Iterator[Callable[..., TestClient]]:
    """Start the app in this process; calling again with the same settings is a restart on the same database."""
    running: list[TestClient] = []
    if database_url is None:
        (tmp_path / "data").mkdir()
        shutil.copy(sqlite_template, tmp_path / "data" / "tuner.sqlite")

    def start(**changes: Any) -> TestClient:
        while running:
            running.pop().__exit__(None, None, None)
        waits = changes.pop("waits", Waits(tick_s=0.05, pause=0.0))
        settings = Settings(data_dir=tmp_path / "data", **{"database_url": database_url, **changes})
        client = TestClient(create_app(settings, open_database(settings), waits), base_url="http://127.0.0.1:8700")
        client.__enter__()
        running.append(client)
        return client

    yield start
    while running:
        running.pop().__exit__(None, None, None)


@pytest.fixture
def client(serve_app: Callable[..., TestClient]) -> TestClient:
    return serve_app()
