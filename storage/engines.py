"""SQLAlchemy engines that set everything on their connections that this package relies on."""

from typing import Any, Literal

from pydantic_core import from_json, to_json
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL


def _text(value: Any) -> str:
    return to_json(value).decode()


JSON_BY: dict[str, Any] = {"json_serializer": _text, "json_deserializer": from_json}
"""Every row holds JSON: Python's own encoder would take longer than the database."""


def sqlite_engine(
    url: URL, *, begin: str, pool: int, patience_s: float, synchronous: Literal["NORMAL", "FULL"]
) -> Engine:
    """Connections whose transactions begin with the statement `begin`."""
    engine = create_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=patience_s,
        **JSON_BY,
        # None switches off the driver's own BEGIN, so that ours below is the only one.
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": patience_s},
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def postgresql_engine(url: URL, *, pool: int, patience_s: float) -> Engine:
    """Connections whose isolation, time zone and date style are ours, whatever the server's or the role's defaults."""
    engine = create_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=patience_s,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        **JSON_BY,
    )

    @event.listens_for(engine, "connect")
    def _set_session(connection: Any, _: Any) -> None:
        before, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute("set time zone 'UTC'")
            cursor.execute("set datestyle = 'ISO'")
        connection.autocommit = before

    return engine
