"""How alembic runs our migrations: on the engine passed in by `storage.migrate`."""

from alembic import context

from storage.migrate import VERSION_TABLE
from storage.tables import Base

with context.config.attributes["engine"].connect() as connection:
    # Off on SQLite while tables are rebuilt; the pragma has no effect within a transaction, so it goes past SQLAlchemy.
    driver = connection.connection.dbapi_connection if connection.dialect.name == "sqlite" else None
    if driver is not None:
        driver.execute("pragma foreign_keys=off")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        transactional_ddl=True,
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        if driver is not None:
            driver.execute("pragma foreign_keys=on")
