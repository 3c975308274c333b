"""The connection that each server keeps beside its pool to a PostgreSQL that several share.

Through it a server holds its locks, and hears what the others say. Whoever loses it holds nothing any more:

- PostgreSQL ends a session that says nothing for `SILENCE_S`, be its server dead, cut off or stopped, and gives its
  locks to others. A killed process loses them at once.
- The server ends one that does not answer for `SILENCE_S`.

A line belongs to one thread. Transaction poolers (PgBouncer in that mode) cannot carry it.
"""

import selectors
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Integer, NullPool, bindparam, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from storage.database import Database, DatabaseUnusable, cause
from storage.engines import ENDS_S, SERVER_ENDS, noticing, set_all

SILENCE_S = ENDS_S
SHARDS = 64
"""How many parts the studies are dealt into, by the remainder of their ids. Each is driven by one server."""
KIND = 0x7476
"""The kind of our advisory locks; their second key is a shard, or `SHARDS` in common for every server that is there."""
CHANNEL = "tuner"
LIVENESS = {"idle_session_timeout": f"{SILENCE_S}s"}  # of PostgreSQL 14

DATABASE = "(select oid from pg_database where datname = current_database())"
OURS = f"locktype = 'advisory' and classid = :kind and database = {DATABASE}"
HELD = text(f"select objid::bigint, pid from pg_locks where {OURS} and granted")
TAKE = text("select key, pg_try_advisory_lock(:kind, key) from unnest(:keys) as key").bindparams(
    bindparam("keys", type_=ARRAY(Integer))
)
GIVE_BACK = text("select pg_advisory_unlock(:kind, key) from unnest(:keys) as key").bindparams(
    bindparam("keys", type_=ARRAY(Integer))
)
STILL = text(
    f"select count(*) from pg_locks where {OURS} and granted and pid = :backend and objid::bigint = any(:keys)"
).bindparams(bindparam("keys", type_=ARRAY(Integer)))


class Held(NamedTuple):
    """Who is there, and which shards each has."""

    holders: dict[int, int]
    """By shard: the backend that holds its lock."""
    servers: int


class Line:
    """One session of its own."""

    def __init__(self, database: Database) -> None:
        """Connect, listen, and say that this server is there.

        Raises:
            DatabaseUnusable: as every method does when the session is lost; it is then to be closed.
        """
        self._name = database.name
        url = database.engine.url.set(drivername="postgresql+psycopg")
        self._engine = create_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=noticing(url), pool_reset_on_return=None
        )
        try:
            with self._plain_errors():
                self._connection = self._engine.connect()
                driver: Any = self._connection.connection.driver_connection
                self._driver = driver
                self.backend: int = driver.info.backend_pid
                """PostgreSQL's name for this session."""
                with driver.cursor() as cursor:
                    set_all(cursor, {**SERVER_ENDS, **LIVENESS})
                self._connection.execute(text(f"listen {CHANNEL}"))
                self._connection.execute(text("select pg_advisory_lock_shared(:kind, :here)"), _keys(here=SHARDS))
        except DatabaseUnusable:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Give everything back."""
        try:
            self._connection.close()
        except SQLAlchemyError:
            pass  # it was lost
        self._engine.dispose()

    def held(self) -> Held:
        """Return which shards are held, and how many servers there are. Also shows that the line is there."""
        with self._plain_errors():
            found = [(int(key), int(pid)) for key, pid in self._connection.execute(HELD, _keys())]
        return Held({key: pid for key, pid in found if key < SHARDS}, len({pid for key, pid in found if key == SHARDS}))

    def take(self, shards: Sequence[int]) -> list[int]:
        """Take the locks of those of these shards that are free; return which."""
        with self._plain_errors():
            return [key for key, taken in self._connection.execute(TAKE, _keys(keys=list(shards))) if taken]

    def give_back(self, shards: Sequence[int]) -> None:
        """Let others have these shards."""
        with self._plain_errors():
            self._connection.execute(GIVE_BACK, _keys(keys=list(shards)))

    def tell(self, said: str) -> None:
        """Say something, of less than 8000 bytes, to every line of the database."""
        with self._plain_errors():
            self._connection.execute(text("select pg_notify(:channel, :said)"), {"channel": CHANNEL, "said": said})

    def hear(self, patience_s: float, wake: int | None = None) -> list[str]:
        """Return what other lines said, as soon as one does; empty when the time is up or the file `wake` has data."""
        with self._plain_errors(), selectors.DefaultSelector() as either:  # `select` knows no number above 1023
            heard = self._drained()
            if not heard:
                either.register(self._driver.fileno(), selectors.EVENT_READ)
                if wake is not None:
                    either.register(wake, selectors.EVENT_READ)
                either.select(max(0.0, patience_s))
                heard = self._drained()
            return heard

    def _drained(self) -> list[str]:
        return [said.payload for said in self._driver.notifies(timeout=0) if said.pid != self.backend]

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, self._engine.dialect.loaded_dbapi.Error, OSError, ValueError) as error:
            raise DatabaseUnusable(f"the database {self._name} cannot be used: {cause(error)}") from error
        except ImportError as error:
            raise DatabaseUnusable(f"{self._name} needs a Python package: {error}") from error


def holds(session: Session, *, backend: int, shards: Sequence[int]) -> bool:
    """Whether a line holds the locks of all these shards now, as another connection sees it."""
    found = session.execute(STILL, _keys(backend=backend, keys=list(shards))).scalar_one()
    return int(found) == len(shards)


def _keys(**more: Any) -> dict[str, Any]:
    return {"kind": KIND, **more}
