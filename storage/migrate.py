"""Upgrading a database to the newest schema, with alembic and our own version-table name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from storage.database import Database, DatabaseUnusable, cause

VERSION_TABLE = "tuner_schema_version"
UPGRADE_LOCK = 0x74756E6572
"""The advisory lock of an upgrade on PostgreSQL: "tuner" in ASCII."""


def alembic_config(database: Database) -> Config:
    """Return alembic's configuration for this database, without a file."""
    config = Config()
    scripts = str(Path(__file__).parent / "migrations").replace("%", "%%")  # the option is a format string
    config.set_main_option("script_location", scripts)
    config.attributes["engine"] = database.engine
    return config


def upgrade(database: Database) -> None:
    """Create or upgrade the schema; does nothing if it is up to date.

    Raises:
        DatabaseUnusable: it cannot be opened, or a newer version of Tuner has upgraded it.
    """
    config = alembic_config(database)
    try:
        with _alone(database):
            _check_version(database, ScriptDirectory.from_config(config))
            command.upgrade(config, "head")
    except DatabaseError as error:
        raise DatabaseUnusable(f"cannot open the database {database.name}: {cause(error)}") from error


def schema_of(database: Database) -> str | None:
    """Return the version of a database's schema; None if it has none."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def head(database: Database) -> str:
    """Return the version of the newest schema that this program knows."""
    newest = ScriptDirectory.from_config(alembic_config(database)).get_current_head()
    assert newest is not None
    return newest


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Let one server at a time upgrade a database that several share; its end, however it ends, frees the others."""
    if database.is_sqlite:
        yield
        return
    with database.engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": UPGRADE_LOCK})
        try:
            yield
        finally:
            connection.execute(text("select pg_advisory_unlock(:key)"), {"key": UPGRADE_LOCK})


def _check_version(database: Database, scripts: ScriptDirectory) -> None:
    found = schema_of(database)
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise DatabaseUnusable(
            f"the database {database.name} has schema {found}, which a newer version of Tuner wrote; this one knows "
            f"{max(known)}: install the newer version, or give it another database"
        )
