"""Upgrading a database to the newest schema, with alembic and our own version-table name."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DatabaseError

from storage.database import Database, DatabaseUnusable, cause

VERSION_TABLE = "tuner_schema_version"


def alembic_config(database: Database) -> Config:
    """Return alembic's configuration for this database, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = database.engine
    return config


def upgrade(database: Database) -> None:
    """Create or upgrade the schema; does nothing if it is up to date."""
    try:
        command.upgrade(alembic_config(database), "head")
    except DatabaseError as error:
        raise DatabaseUnusable(f"cannot open the database {database.shown}: {cause(error)}") from error
