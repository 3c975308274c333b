"""The statements that reach a database."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from storage.database import Database


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements of this thread that reach the database; one that runs for many rows counts once.

    What PostgreSQL is sent as `copy` is not seen: one for each table that rows are inserted into.
    """
    found: list[str] = []
    own = threading.get_ident()

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == own and statement != "BEGIN":
            found.append(statement)

    engines = {engine.pool: engine for engine in (database._reader, database._writer)}.values()  # one on PostgreSQL
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield found
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)
