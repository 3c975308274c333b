"""Writing many rows in few statements, whatever their number.

Values go to the driver as they are stored, past the ORM: building one statement object per row costs more than storing
it. Verdicts are used: a guarded update that finds a row in another state than the caller believes raises `Conflict`,
and the caller's transaction is rolled back. Nothing is half written.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Dialect, Table, TextClause
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session

from tuner.errors import Conflict

MOST_VALUES = 30_000
"""In one statement; SQLite takes 32,766."""
Row = Sequence[Any]


def table_of(entity: type[DeclarativeBase]) -> Table:
    """Return the table of a mapped class."""
    return cast(Table, entity.__table__)


def insert_all(session: Session, entity: type[DeclarativeBase], names: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert rows that are not stored yet, each with the values of these columns: all that may not be null.

    Raises:
        IntegrityError: of SQLAlchemy, when a row breaks a constraint.
    """
    if rows:
        stored = _stored(table_of(entity), tuple(names), session.connection().dialect, rows)
        insert_encoded(session, entity, names, stored)


def insert_encoded(session: Session, entity: type[DeclarativeBase], names: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert rows as `insert_all` does, of values that are as the driver takes them: JSON is text."""
    if not rows:
        return
    table, connection = table_of(entity), session.connection()
    columns = ", ".join(map(connection.dialect.identifier_preparer.quote, names))  # `order` is a word of SQL
    if connection.dialect.name == "postgresql":
        _copy(connection, f"copy {table.name} ({columns}) from stdin", rows)
        return
    for part in _parts(rows, len(names)):
        one = f"({', '.join('?' * len(names))})"
        statement = f"insert into {table.name} ({columns}) values {', '.join([one] * len(part))}"
        connection.exec_driver_sql(statement, _flat(part))


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


def update_all(
    session: Session,
    entity: type[DeclarativeBase],
    names: Sequence[str],
    rows: Sequence[Row],
    guard: ColumnElement[bool],
) -> None:
    """Update one stored row per given one, found by its primary key and the guard.

    Raises:
        Conflict: a row is gone, or no longer meets the guard.
    """
    done = update_found(session, entity, names, rows, guard)
    if done != len(rows):
        raise Conflict(
            f"{len(rows) - done} of {len(rows)} rows of {entity.__tablename__} were changed by another request"
        )


def update_found(
    session: Session,
    entity: type[DeclarativeBase],
    names: Sequence[str],
    rows: Sequence[Row],
    guard: ColumnElement[bool] | TextClause,
) -> int:
    """Update the stored rows that have the primary keys of given ones and meet the guard; return how many did.

    In the guard, `given.column1` is the first of the `names`.
    """
    if not rows:
        return 0
    table, connection = table_of(entity), session.connection()
    stored = _stored(table, tuple(names), connection.dialect, rows)
    condition = str(guard.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    done = 0
    for part in _parts(stored, len(names)):
        statement = _update(table, tuple(names), condition, len(part), connection.dialect)
        done += cast("CursorResult[Any]", connection.exec_driver_sql(statement, _flat(part))).rowcount
    session.expire_all()  # what the session has read of these rows is out of date
    return done


@lru_cache(maxsize=512)
def _update(table: Table, names: tuple[str, ...], condition: str, count: int, dialect: Dialect) -> str:
    """Write the statement for so many rows; the first one's values tell PostgreSQL the types of all."""
    keys = [column.name for column in table.primary_key]
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    first = ", ".join(f"cast({mark} as {table.columns[name].type.compile(dialect)})" for name in names)
    # SQLite's casts would change values (it has no type for times), and it needs none.
    one = ", ".join([mark] * len(names))
    values = ", ".join([f"({one if dialect.name == 'sqlite' else first})", *[f"({one})"] * (count - 1)])
    new = {name: f"given.column{place}" for place, name in enumerate(names, 1)}  # as both databases name them
    quote = dialect.identifier_preparer.quote  # `order` is a word of SQL
    changed = ", ".join(f"{quote(name)} = {new[name]}" for name in names if name not in keys)
    found = " and ".join(f"{table.name}.{key} = {new[key]}" for key in keys)
    return f"update {table.name} set {changed} from (values {values}) as given where {found} and {condition}"


def _stored(table: Table, names: tuple[str, ...], dialect: Dialect, rows: Sequence[Row]) -> Sequence[Row]:
    """Turn values into what the driver stores."""
    processors = _processors(table, names, dialect)
    if not processors:
        return rows
    found = []
    for row in rows:
        values = list(row)
        for place, process in processors:
            values[place] = process(values[place])
        found.append(values)
    return found


@lru_cache(maxsize=64)
def _processors(table: Table, names: tuple[str, ...], dialect: Dialect) -> list[tuple[int, Any]]:
    kinds = [table.columns[name].type.dialect_impl(dialect) for name in names]
    found = [(place, kind.bind_processor(dialect)) for place, kind in enumerate(kinds)]
    return [(place, process) for place, process in found if process is not None]


def _parts(rows: Sequence[Row], width: int) -> Iterator[Sequence[Row]]:
    size = max(1, MOST_VALUES // width)
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


def _flat(rows: Sequence[Row]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(rows))


def _copy(connection: Connection, statement: str, rows: Sequence[Row]) -> None:
    """Send rows in PostgreSQL's own way of loading many; errors are SQLAlchemy's."""
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        base = connection.dialect.loaded_dbapi.Error
        raise DBAPIError.instance(statement, None, error, base, dialect=connection.dialect) from error
