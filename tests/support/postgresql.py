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
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

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
    """Start a server; the URL is that of its maintenance database. What it stores need not survive a power cut."""
    with postgresql_server() as server:
        with administrator(server.url) as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(text(f"alter system set {setting} = off"))
            connection.execute(text("select pg_reload_conf()"))
        yield server.url


@pytest.fixture(scope="session")
def postgresql_template(postgresql_url: str) -> str:
    """The URL of a database with the newest schema, which nobody is connected to."""
    url = fresh_database(postgresql_url)
    database = Database(url)
    upgrade(database)
    database.close()
    return url


@contextmanager
def administrator(url: str) -> Iterator[Connection]:
    """Connect to a database, each statement a transaction of its own."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def fresh_database(server: str, template: str | None = None) -> str:
    """Create a database on a server, empty or as a template has it, and return its URL."""
    name = f"fresh_{next(COUNT)}"
    like = f" template {make_url(template).database}" if template else ""
    with administrator(server) as connection:
        connection.execute(text(f"create database {name}{like}"))
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def postgresql(postgresql_url: str, postgresql_template: str) -> Iterator[Database]:
    """A database of its own on the server, with the newest schema."""
    url = fresh_database(postgresql_url, postgresql_template)
    found = Database(url)
    yield found
    found.close()
    with administrator(postgresql_url) as connection:
        connection.execute(text(f"drop database {make_url(url).database}"))


@pytest.fixture(scope="session")
def shared_postgresql(postgresql_url: str, postgresql_template: str) -> str:
    """The URL of a database that tests of one process share one after the other; see `emptied_postgresql`."""
    return fresh_database(postgresql_url, postgresql_template)


@pytest.fixture
def emptied_postgresql(shared_postgresql: str) -> str:
    """The URL of a database with the newest schema and nothing in it: three times as fast as one of its own."""
    with administrator(shared_postgresql) as connection:
        connection.execute(text("set lock_timeout = '5s'"))
        connection.execute(text("truncate studies, workers, tokens restart identity cascade"))
    return shared_postgresql
