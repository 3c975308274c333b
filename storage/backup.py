"""A copy of a database in one SQLite file, made while servers run: `tuner db backup`."""

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from storage.copying import Told, copy
from storage.database import Database
from tuner.errors import Conflict


def backup(database: Database, file: Path, told: Told = lambda table, rows: None) -> None:
    """Write a consistent copy into a new file, which appears whole or not at all.

    `tuner serve` can open the file, and `tuner db move` puts it into any other database.

    Raises:
        Conflict: the file exists, or the database has another schema than this program.
        DatabaseUnusable: the database cannot be read.
        OSError: the file cannot be written.
    """
    if file.exists():
        raise Conflict(f"{file} exists already; a backup replaces nothing")
    with tempfile.TemporaryDirectory(prefix=".tuner-backup-", dir=file.absolute().parent) as folder:
        made = Path(folder) / "tuner.sqlite"
        if database.is_sqlite:
            _copy_pages(database, made)
        else:
            target = Database(f"sqlite:///{made}")
            try:
                copy(database, target, told)
            finally:
                target.close()
        with closing(sqlite3.connect(made)) as connection:
            connection.execute("pragma journal_mode = delete")  # everything in one file
        with open(made, "rb") as written:
            os.fsync(written.fileno())
        made.rename(file)


def _copy_pages(database: Database, made: Path) -> None:
    with database.read() as session:
        source = session.connection().connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        with closing(sqlite3.connect(made)) as target:
            source.backup(target)
