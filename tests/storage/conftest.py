"""A fresh database for every test, on SQLite and on a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database
from storage.migrate import upgrade


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database with the newest schema."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql")
        return
    found = Database(f"sqlite:///{tmp_path / 'test.sqlite'}")
    upgrade(found)
    yield found
    found.close()
