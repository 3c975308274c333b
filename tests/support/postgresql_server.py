"""A real PostgreSQL server for the tests of one process, with an empty database for each."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from storage.database import Database
from storage.migrate import upgrade

COUNT = itertools.count()


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server of this test process."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pgserver

    # Its socket's path must be short, and its own user must be able to read it; pytest closes its own directory to
    # other users whenever a session starts.
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        os.chmod(place, 0o755)
        with pgserver.get_server(Path(place) / "data") as server:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    """An empty database on the PostgreSQL server, with the newest schema."""
    name = f"test_{next(COUNT)}"
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    found = Database(make_url(postgresql_url).set(database=name).render_as_string(hide_password=False))
    upgrade(found)
    yield found
    found.close()
