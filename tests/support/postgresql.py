"""A PostgreSQL server for the tests of one process, fresh databases on it, and servers that a test may kill."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, make_url, text

from storage.database import Database
from storage.migrate import upgrade

COUNT = itertools.count()


class PostgresqlServer:
    """A server on data of its own."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        """That of its maintenance database."""

    def kill(self) -> None:
        """Kill every process of the server at once, as a machine that fails does."""
        processes = [psutil.Process(self._server.get_pid())]
        processes += processes[0].children(recursive=True)
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)

    def start(self) -> None:
        """Start it again on its data, at the same address."""
        self._server.ensure_postgres_running()


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """Start a server; it ends with the context."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="runtime"))
    import pgserver

    # Its socket's path must be short, and its own user must be able to read it; pytest closes its own directory to
    # other users whenever a session starts.
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        os.chmod(place, 0o755)
        with pgserver.get_server(Path(place) / "data") as server:
            yield PostgresqlServer(server)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """Start a server; the URL is that of its maintenance database."""
    with postgresql_server() as server:
        yield server.url


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
