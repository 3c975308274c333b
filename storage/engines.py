"""SQLAlchemy engines that set everything on their connections that this package relies on."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic_core import from_json, to_json
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL


def _text(value: Any) -> str:
    return to_json(value).decode()


JSON_BY: dict[str, Any] = {"json_serializer": _text, "json_deserializer": from_json}
"""Every row holds JSON: Python's own encoder would take longer than the database."""


ENDS_S = 5
"""Once the other end of a connection, or the network between, is gone, it is ended after about so long."""
CLIENT_ENDS: dict[str, int] = {
    "connect_timeout": ENDS_S,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": ENDS_S * 1000,
}
"""How libpq notices: milliseconds in the last, seconds before."""
SERVER_ENDS = {
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "2s",  # of PostgreSQL 14; while a statement runs
}
"""How PostgreSQL notices: otherwise what a lost server had locked may stay so for hours."""


def noticing(url: URL) -> dict[str, int]:
    """Return how a client notices that the database is gone, where its URL does not say so itself."""
    return {name: value for name, value in CLIENT_ENDS.items() if name not in url.query}


def set_all(cursor: Any, settings: Mapping[str, str]) -> None:
    """Set settings for a driver's session; those that this version of PostgreSQL does not have are left out."""
    for name, value in settings.items():
        cursor.execute("select set_config(name, %s, false) from pg_settings where name = %s", (value, name))


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
        connect_args=noticing(url) if url.get_driver_name().startswith("psycopg") else {},
        **JSON_BY,
    )

    @event.listens_for(engine, "connect")
    def _set_session(connection: Any, _: Any) -> None:
        before, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute("set time zone 'UTC'")
            cursor.execute("set datestyle = 'ISO'")
            set_all(cursor, SERVER_ENDS)
        connection.autocommit = before

    return engine
