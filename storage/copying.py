"""Copying a whole database into another one, of the same kind or not: `tuner db move` and `tuner db backup`.

Rows go table by table in one transaction of the target, read from one snapshot of the source, so that a copy is either
whole or absent. What was copied is counted on both sides before it is committed.
"""

from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, Table, func, select, text

from storage.database import Database
from storage.migrate import head, schema_of, upgrade
from storage.tables import Base
from tuner.errors import Conflict

ROWS = 5000
"""Rows in memory at a time."""
Told = Callable[[str, int], None]
"""Called with a table and the rows of it that were copied."""


def copy(source: Database, target: Database, told: Told = lambda table, rows: None) -> dict[str, int]:
    """Copy every row of a database into an empty one, and return the rows per table.

    The target gets the newest schema; the source must have it.

    Raises:
        Conflict: the target holds studies, the source has another schema, or the counts differ at the end.
        DatabaseUnusable: one of them cannot be used.
    """
    found = schema_of(source)
    if found != head(source):
        has = f"schema {found}" if found else "no schema"
        raise Conflict(f"{source.name} has {has}, not {head(source)}; upgrade it first: tuner db upgrade")
    upgrade(target)
    with source.read() as session, target.write() as into:
        reading, writing = session.connection(), into.connection()
        _check_empty(writing, target)
        # Tables come in the order of their references and rows by primary key: a trial after the one it comes from.
        counts = {table.name: _copy_table(reading, writing, table, told) for table in Base.metadata.sorted_tables}
        _check_counts(reading, writing)
        _count_ids_on(reading, writing)
    return counts


def _check_empty(writing: Connection, target: Database) -> None:
    for table in Base.metadata.sorted_tables:
        if table.name != "identity" and (rows := _count(writing, table)):
            raise Conflict(f"{target.name} is not empty: {rows} rows in {table.name}; a copy needs an empty database")
    writing.execute(Base.metadata.tables["identity"].delete())  # the copy is the source, not a third database


def _copy_table(reading: Connection, writing: Connection, table: Table, told: Told) -> int:
    rows = 0
    result = reading.execution_options(yield_per=ROWS).execute(select(table).order_by(*table.primary_key))
    for part in result.mappings().partitions(ROWS):
        writing.execute(table.insert(), [dict(row) for row in part])
        rows += len(part)
    told(table.name, rows)
    return rows


def _check_counts(reading: Connection, writing: Connection) -> None:
    for table in Base.metadata.sorted_tables:
        before, after = _count(reading, table), _count(writing, table)
        if before != after:
            raise Conflict(f"{after} of {before} rows of {table.name} arrived; nothing was kept")


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _count_ids_on(reading: Connection, writing: Connection) -> None:
    """Let the target's ids go on after every one that the source ever gave, deleted rows' included."""
    for table in Base.metadata.sorted_tables:
        column = table.primary_key.columns.values()[0]
        last = max(_highest(reading, table, column), _last_given(reading, table))
        if last and _gives_ids(writing, table):
            _set_last_given(writing, table, last)


def _highest(reading: Connection, table: Table, column: ColumnElement[int]) -> int:
    return int(reading.execute(select(func.max(column)).select_from(table)).scalar() or 0)


def _gives_ids(connection: Connection, table: Table) -> bool:
    """Whether the database counts the ids of a table up."""
    if "id" not in table.columns:
        return False
    if connection.dialect.name == "sqlite":
        return bool(table.dialect_options["sqlite"]["autoincrement"])
    return connection.execute(text(SEQUENCE), {"table": table.name}).scalar() is not None


SEQUENCE = "select pg_get_serial_sequence(:table, 'id')"


def _last_given(connection: Connection, table: Table) -> int:
    if not _gives_ids(connection, table):
        return 0
    if connection.dialect.name == "sqlite":
        query = "select seq from sqlite_sequence where name = :table"
    else:
        query = f"select pg_sequence_last_value(({SEQUENCE})::regclass)"
    return int(connection.execute(text(query), {"table": table.name}).scalar() or 0)


def _set_last_given(connection: Connection, table: Table, last: int) -> None:
    values = {"table": table.name, "last": last}
    if connection.dialect.name == "sqlite":
        connection.execute(text("delete from sqlite_sequence where name = :table"), {"table": table.name})
        connection.execute(text("insert into sqlite_sequence (name, seq) values (:table, :last)"), values)
    else:
        connection.execute(text(f"select setval(({SEQUENCE})::regclass, :last)"), values)
