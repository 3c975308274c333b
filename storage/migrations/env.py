"""How alembic runs our migrations: on the engine passed in by `storage.migrate`.

SQLite changes most of a table by copying it and dropping the old one, and a dropped table takes the rows that refer to
it with it. So foreign keys are off while the migrations run, and are checked before they are committed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection

from storage.migrate import VERSION_TABLE
from storage.tables import Base


@contextmanager
def foreign_keys_off(connection: Connection) -> Iterator[None]:
    """Switch SQLite's foreign keys off, which it allows only between transactions."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
        if connection.dialect.name == "sqlite":
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise RuntimeError(f"the migration broke {len(broken)} references, e.g. {tuple(broken[0])}")


with context.config.attributes["engine"].connect() as connection:
    if connection.dialect.name == "sqlite":
        with foreign_keys_off(connection):
            migrate(connection)
    else:
        migrate(connection)
