"""A fresh database for every test, on SQLite and on a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql import fresh_database, postgresql_server

from storage.database import Database
from storage.migrate import upgrade


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server of this test process."""
    with postgresql_server(tmp_path_factory.mktemp("pg"), tmp_path_factory.mktemp("runtime")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database with the newest schema."""
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    if request.param == "postgresql":
        url = fresh_database(request.getfixturevalue("postgresql_url"))
    found = Database(url)
    upgrade(found)
    yield found
    found.close()
