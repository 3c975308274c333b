"""Connections and transactions.

SQLite gets one write engine, whose transactions begin IMMEDIATE under a process-wide lock, and a separate read engine:
its default (deferred) transactions let two writers read the same count and both insert. PostgreSQL uses one engine.
`synchronous=NORMAL` survives a killed process, but a power cut may lose the last moments; `FULL` survives both.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tuner.errors import TunerError

UNUSABLE = ("disk is full", "readonly", "unable to open", "disk I/O error", "not a database")


class DatabaseUnusable(TunerError):
    """The database cannot be opened or written."""


class Database:
    """One database: `with db.read() as session` and `with db.write() as session` (commits at the end)."""

    def __init__(self, url: str, *, readers: int = 40, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        self.url = url
        self._write_lock = threading.Lock()
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise DatabaseUnusable(
                    f"database_url is {url!r}; SQLite needs a file, e.g. sqlite:////tmp/tuner.sqlite"
                )
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._writer = _sqlite_engine(url, begin="BEGIN IMMEDIATE", pool=1, synchronous=synchronous)
            self._reader = _sqlite_engine(url, begin="BEGIN", pool=readers, synchronous=synchronous)
        else:
            self._writer = self._reader = create_engine(url, pool_size=readers, pool_pre_ping=True)
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
        with self._write_lock, _plain_errors(self.url), self._write_sessions.begin() as session:
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


@contextmanager
def _plain_errors(url: str) -> Iterator[None]:
    """Turn a full disk or a read-only file into a one-line error."""
    try:
        yield
    except OperationalError as error:
        cause = str(error.orig)
        if any(sign in cause for sign in UNUSABLE):
            raise DatabaseUnusable(f"cannot write the database {url}: {cause}") from error
        raise


def _sqlite_engine(url: str, *, begin: str, pool: int, synchronous: str) -> Engine:
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
