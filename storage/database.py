"""Connections and transactions.

SQLite gets one write engine, whose transactions begin IMMEDIATE and take turns in order, and a separate read engine:
its default (deferred) transactions let two writers read the same count and both insert. PostgreSQL uses one engine,
whose reads are repeatable.
A URL is kept as its parts: a path may contain any character, and a message never contains a password.
`synchronous=NORMAL` survives a killed process, but a power cut may lose the last moments; `FULL` survives both.

Whatever the database itself fails with, reading or writing, is `DatabaseUnusable`: nothing was stored, and trying again
later may help. A SQLite file that was deleted or replaced under a running server is unusable from then on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from sqlalchemy import URL, Engine, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from storage.engines import postgresql_engine, sqlite_engine
from storage.turnstile import Turnstile
from tuner.errors import TunerError

OURS = (IntegrityError, DataError, ProgrammingError, NotSupportedError)
"""Errors that say something of the statement, not of the database."""
PATIENCE_S = 5.0


class DatabaseUnusable(TunerError):
    """The database cannot be opened, read or written now."""


class Database:
    """One database: `with db.read() as session` and `with db.write() as session` (commits at the end)."""

    def __init__(
        self,
        url: str | URL,
        *,
        readers: int = 40,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`readers` bounds the connections that are open at a time; `patience_s` the wait for one, or for a lock."""
        url = _password_apart(make_url(url))
        self.name = name_of(url)
        """As it may appear in messages."""
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._write_lock = Turnstile()
        self._patience_s = patience_s
        self._file: Path | None = None
        self._identity: tuple[int, int] | None = None
        self._claim: IO[str] | None = None
        if self.is_sqlite:
            if not url.database or url.database == ":memory:":
                raise DatabaseUnusable(
                    f"database_url is {self.name!r}; SQLite needs a file, e.g. sqlite:////tmp/tuner.sqlite"
                )
            self._file = Path(url.database)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            common: dict[str, Any] = {"patience_s": patience_s, "synchronous": synchronous}
            self._writer = sqlite_engine(url, begin="BEGIN IMMEDIATE", pool=1, **common)
            self._reader = sqlite_engine(url, begin="BEGIN", pool=readers, **common)
        else:
            self._writer = _shared_engine(url, pool=readers, patience_s=patience_s)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")
        self._write_sessions = sessionmaker(self._writer, expire_on_commit=False)
        self._read_sessions = sessionmaker(self._reader, expire_on_commit=False)

    @property
    def engine(self) -> Engine:
        """The engine that writes (migrations use it)."""
        return self._writer

    def claim(self) -> None:
        """Make this process the only server of a SQLite file, until `close` or its end.

        Raises:
            DatabaseUnusable: another process serves it.
        """
        if self._file is None or self._claim is not None:
            return
        try:
            import fcntl
        except ImportError:  # a system without file locks of this kind
            return
        self._claim = open(f"{self._file}.lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._claim.close()
            self._claim = None
            raise DatabaseUnusable(
                f"another server uses {self._file}; stop it, or start this one with another --data-dir"
            ) from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent snapshot."""
        with self._plain_errors(), self._read_sessions.begin() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction; on SQLite the only one at a time."""
        with self._plain_errors(), self._alone(), self._write_sessions.begin() as session:
            yield session

    def now(self, session: Session) -> datetime:
        """The clock that leases go by: the database's own where several servers may share it."""
        if self.is_sqlite:
            return datetime.now(UTC)
        now: datetime = session.execute(text("select now()")).scalar_one()
        return now.astimezone(UTC)

    def close(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._write_lock.acquire(self._patience_s):
            raise DatabaseUnusable(f"the database {self.name} is busy: no turn to write in {self._patience_s:g} s")
        try:
            yield
        finally:
            self._write_lock.release()

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn errors of the database itself into one line that says so."""
        self._check_identity()
        try:
            yield
        except OURS:
            raise
        except (DBAPIError, PoolTimeout) as error:
            raise DatabaseUnusable(f"the database {self.name} cannot be used: {cause(error)}") from error

    def _check_identity(self) -> None:
        """Refuse to go on with a SQLite file that is not the one that was opened."""
        if self._file is None:
            return
        try:
            found = os.stat(self._file)
        except OSError:
            found = None
        identity = None if found is None else (found.st_dev, found.st_ino)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            what = "was deleted" if identity is None else "was replaced by another file"
            raise DatabaseUnusable(f"the database {self._file} {what} while the server ran; restart the server")


def cause(error: Exception) -> str:
    """Return the first line of what the driver says; without the statement and its values."""
    said: Any = getattr(error, "orig", None) or error
    return str(said).strip().partition("\n")[0] or type(said).__name__


def name_of(url: URL) -> str:
    """Name a database in messages: its file, or its URL without its password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "sqlite://"
    return url.set(query={}).render_as_string(hide_password=True)


def _password_apart(url: URL) -> URL:
    """Move a password from the query, which SQLAlchemy shows, to where it hides it."""
    password = url.query.get("password")
    return url.difference_update_query(["password"]).set(password=password) if isinstance(password, str) else url


def _shared_engine(url: URL, *, pool: int, patience_s: float) -> Engine:
    try:
        return postgresql_engine(url, pool=pool, patience_s=patience_s)
    except ImportError as error:
        remedy = "install 'tuner-hpo[postgres]'"
        raise DatabaseUnusable(f"{name_of(url)} needs a Python package: {error}; {remedy}") from error
