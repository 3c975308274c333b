"""Looking after a database without a server: what `tuner db` does. Each function opens the database of the settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from api.settings import Settings, database_of
from storage import backup as backups
from storage import checking, copying, migrate
from storage.database import Database, DatabaseUnusable
from tuner.errors import Fault, InvalidInput


@contextmanager
def _opened(settings: Settings, *, new: bool = False) -> Iterator[Database]:
    """Open the database; unless it may be `new`, a SQLite file must be there."""
    url = settings.url
    if not new and url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise DatabaseUnusable(f"there is no database {url.database}; give one with --data-dir or --db")
    database = Database(url, synchronous=settings.sqlite_synchronous)
    try:
        yield database
    finally:
        database.close()


def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Bring the schema up to date; return its version before and after.

    Raises:
        DatabaseUnusable: a newer version of Tuner has upgraded it, or a server uses the file.
    """
    with _opened(settings, new=True) as database:
        before = migrate.schema_of(database)
        database.claim()
        migrate.upgrade(database)
        return before, migrate.head(database)


def check(settings: Settings) -> list[str]:
    """Return what is wrong with the database, a line each."""
    with _opened(settings) as database:
        return checking.faults(database)


def backup(settings: Settings, file: Path) -> None:
    """Write a copy into a new SQLite file, while servers may run."""
    with _opened(settings) as database:
        backups.backup(database, file)


def move(settings: Settings, target: str, told: Callable[[str, int], None]) -> dict[str, int]:
    """Copy everything into an empty database at a URL; return the rows per table.

    Raises:
        Conflict: the target is not empty.
        DatabaseUnusable: a server uses one of the two SQLite files.
        InvalidInput: the URL is none, or that of the source.
    """
    try:
        url = database_of(target)
    except ValueError as error:
        raise InvalidInput([Fault("TARGET", str(error))]) from None
    if url == settings.url:
        raise InvalidInput([Fault("TARGET", "is the database that is to be moved")])
    with _opened(settings) as source:
        source.claim()  # what a server stored meanwhile would be missing
        into = Database(url, synchronous=settings.sqlite_synchronous)
        try:
            into.claim()
            return copying.copy(source, into, told)
        finally:
            into.close()
