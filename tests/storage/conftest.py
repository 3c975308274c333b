"""A fresh database for every test, on SQLite and on a real PostgreSQL server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> Iterator[Database]:
    """An empty database with the newest schema."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql")
        return
    found = Database(f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'test.sqlite')}")
    yield found
    found.close()
