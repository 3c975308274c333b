"""Connections and transactions.

SQLite gets one write engine, whose transactions begin IMMEDIATE under a process-wide lock, and a separate read engine:
its default (deferred) transactions let two writers read the same count and both insert. PostgreSQL uses one engine.
A URL is kept as its parts: a path may contain any character, and a message never contains a password.
`synchronous=NORMAL` survives a killed process, but a power cut may lose the last moments; `FULL` survives both.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tuner.errors import TunerError

UNUSABLE = ("disk is full", "readonly", "unable to open", "disk I/O error", "not a database")


class DatabaseUnusable(TunerError):
    """The database cannot be opened or written."""


class Database:
    """One database: `with db.read() as session` and `with db.write() as session` (commits at the end)."""

    def __init__(self, url: str | URL, *, readers: int = 40, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        url = _password_apart(make_url(url))
        self.name = name_of(url)
        self._write_lock = threading.Lock()
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if not url.database or url.database == ":memory:":
                raise DatabaseUnusable(
                    f"database_url is {self.name!r}; SQLite needs a file, e.g. sqlite:////tmp/tuner.sqlite"
                )
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            self._writer = _sqlite_engine(url, begin="BEGIN IMMEDIATE", pool=1, synchronous=synchronous)
            self._reader = _sqlite_engine(url, begin="BEGIN", pool=readers, synchronous=synchronous)
        else:
            self._writer = self._reader = _shared_engine(url, pool=readers)
        self._write_sessions = sessionmaker(self._writer, expire_on_commit=False)
        self._read_sessions = sessionmaker(self._reader, expire_on_commit=False)

    @property
    def engine(self) -> Engine:
        """The engine that writes (migrations use it)."""
        return self._writer

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent snapshot."""
        with self._read_sessions.begin() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One write transaction; on SQLite only one runs at a time."""
        if not self.is_sqlite:
            with self._write_sessions.begin() as session:
                yield session
            return
        with self._write_lock, _plain_errors(self.name), self._write_sessions.begin() as session:
            yield session

    def now(self, session: Session) -> datetime:
        """The clock used for leases: the database's own if several servers may share it."""
        if self.is_sqlite:
            return datetime.now(UTC)
        now: datetime = session.execute(text("select now()")).scalar_one()
        return now.astimezone(UTC)

    def close(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()


def name_of(url: URL) -> str:
    """Name a database in messages: its file, or its URL without its password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "sqlite://"
    return url.set(query={}).render_as_string(hide_password=True)


def _password_apart(url: URL) -> URL:
    """Move a password from the query, which SQLAlchemy shows, to where it hides it."""
    password = url.query.get("password")
    return url.difference_update_query(["password"]).set(password=password) if isinstance(password, str) else url


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Turn a full disk or a read-only file into a one-line error."""
    try:
        yield
    except OperationalError as error:
        cause = str(error.orig)
        if any(sign in cause for sign in UNUSABLE):
            raise DatabaseUnusable(f"cannot write the database {name}: {cause}") from error
        raise


def _shared_engine(url: URL, *, pool: int) -> Engine:
    try:
        return create_engine(url, pool_size=pool, pool_pre_ping=True)
    except ImportError as error:
        remedy = "install 'tuner-hpo[postgres]'"
        raise DatabaseUnusable(f"{name_of(url)} needs a Python package: {error}; {remedy}") from error


def _sqlite_engine(url: URL, *, begin: str, pool: int, synchronous: str) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        # None disables the driver's own BEGIN, so that ours below is the only one.
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 30},
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
