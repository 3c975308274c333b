"""A real PostgreSQL server of this test process, and fresh databases on it."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

COUNT = itertools.count()


@contextmanager
def postgresql_server(directory: Path, runtime: Path) -> Iterator[str]:
    """Serve from `directory`, which must have a short path; yields the URL of its maintenance database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pgserver

    with pgserver.get_server(directory) as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


def fresh_database(server: str) -> str:
    """Create an empty database on a server and return its URL."""
    name = f"fresh_{next(COUNT)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)
