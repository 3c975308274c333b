"""Writing many rows in one statement.

Verdicts are used: a guarded update that finds a row in another state than the caller believes raises `Conflict`, and
the caller's transaction is rolled back. Nothing is half written.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, bindparam, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import DeclarativeBase, Session

from tuner.errors import Conflict


def table_of(entity: type[DeclarativeBase]) -> Table:
    """Return the table of a mapped class."""
    return cast(Table, entity.__table__)


def upsert(session: Session, entity: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; where a row has the primary key of a stored one, it replaces that row's other columns."""
    if not rows:
        return
    table = table_of(entity)
    insert = postgresql_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
    statement = insert(table)
    changed = {c.name: statement.excluded[c.name] for c in table.columns if not c.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)
    session.execute(statement, [dict(row) for row in rows])


def update_each(
    session: Session, entity: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]], *guards: ColumnElement[bool]
) -> None:
    """Update one stored row per given one: found by its primary key and the guards, changed in its other columns.

    All rows name the same columns.

    Raises:
        Conflict: a row is gone, or no longer meets the guards.
    """
    if not rows:
        return
    table = table_of(entity)
    keys = [column for column in table.primary_key if column.name in rows[0]]
    changed: dict[str, Any] = {
        name: bindparam(f"new_{name}") for name in rows[0] if name not in {key.name for key in keys}
    }
    statement = update(table).where(*(key == bindparam(f"key_{key.name}") for key in keys), *guards).values(changed)
    values = [
        {**{f"key_{key.name}": row[key.name] for key in keys}, **{f"new_{name}": row[name] for name in changed}}
        for row in rows
    ]
    done = cast("CursorResult[Any]", session.connection().execute(statement, values)).rowcount
    session.expire_all()  # what the session has read of these rows is out of date
    if done != len(rows):
        raise Conflict(f"{len(rows) - done} of {len(rows)} rows of {table.name} were changed by another request")
