"""A real PostgreSQL server for the tests of one process, and fresh databases on it."""

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
    """Start a server; the URL is that of its maintenance database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pgserver

    # Its socket's path must be short, and its own user must be able to read it; pytest closes its own directory to
    # other users whenever a session starts.
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        os.chmod(place, 0o755)
        with pgserver.get_server(Path(place) / "data") as server:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


def fresh_database(server: str) -> str:
    """Create an empty database on a server and return its URL."""
    name = f"fresh_{next(COUNT)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    """An empty database on the server, with the newest schema."""
    found = Database(fresh_database(postgresql_url))
    upgrade(found)
    yield found
    found.close()
