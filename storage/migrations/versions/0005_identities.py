"""ids are never used twice; databases and attempts have random tokens; checkpoints have a kind."""

import re
import secrets

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'

REBUILT = ('studies', 'trials', 'workers')


def upgrade() -> None:
    op.create_table('identity',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('token', sa.String(length=64), nullable=False),
    sa.CheckConstraint('id = 1', name=op.f('ck_identity_one_row')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_identity'))
    )
    op.execute(sa.text("insert into identity (id, token) values (1, :token)").bindparams(token=secrets.token_hex(16)))
    with op.batch_alter_table('checkpoints') as batch:
        batch.add_column(sa.Column('kind', sa.String(length=8), nullable=False, server_default='state'))
        batch.create_check_constraint(op.f('ck_checkpoints_kind'), "kind in ('state','weights')")
    op.execute("update checkpoints set kind = 'weights' where path like '%.weights.safetensors'")
    op.add_column('attempts', sa.Column('token', sa.String(length=64), nullable=False, server_default=''))
    if op.get_bind().dialect.name == 'sqlite':
        for table in REBUILT:
            _count_ids_up(table)


def _count_ids_up(table: str) -> None:
    """Build a table anew with AUTOINCREMENT, in the order that SQLite's manual gives for changes of a schema.

    The caller has switched foreign keys off: dropping the old table must not delete what refers to it.
    """
    connection = op.get_bind()
    assert connection.exec_driver_sql('pragma foreign_keys').scalar() == 0
    (made,) = connection.exec_driver_sql(f"select sql from sqlite_master where type = 'table' and name = '{table}'").one()
    rest = connection.exec_driver_sql(
        f"select sql from sqlite_master where type = 'index' and tbl_name = '{table}' and sql is not null"
    ).scalars().all()
    lines = [line for line in made.splitlines() if not re.fullmatch(r'\s*(CONSTRAINT \w+ )?PRIMARY KEY \(id\),?\s*', line)]
    text = re.sub(r',\s*\)$', '\n)', '\n'.join(lines)).replace('id INTEGER NOT NULL', 'id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL', 1)
    assert 'AUTOINCREMENT' in text, made
    connection.exec_driver_sql(text.replace(table, f'new_{table}', 1))
    connection.exec_driver_sql(f'insert into new_{table} select * from {table}')
    connection.exec_driver_sql(f'drop table {table}')
    connection.exec_driver_sql(f'alter table new_{table} rename to {table}')
    for statement in rest:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    with op.batch_alter_table('checkpoints') as batch:
        batch.drop_constraint(op.f('ck_checkpoints_kind'))
        batch.drop_column('kind')
    op.drop_column('attempts', 'token')
    op.drop_table('identity')
