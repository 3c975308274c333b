"""How alembic runs our migrations: on the engine passed in by `storage.migrate`."""

from alembic import context

from storage.migrate import VERSION_TABLE
from storage.tables import Base

with context.config.attributes["engine"].connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
