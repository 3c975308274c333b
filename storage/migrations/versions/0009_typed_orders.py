"""Orders to trials are typed, studies can be changed and reopened, and trials can be given by users.

Until now the text of a stop was all that told of it. That of a user's stop of one trial was always the same.
"""

import sqlalchemy as sa
from alembic import op

import storage.columns

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

ORDER = """"order" is null or ("order" in ('stop','prune','pause') and state = 'running')"""
ENQUEUED = sa.text("state = 'queued' and origin = 'enqueued'")
KEY = ['study_id', 'idempotency_key']


def upgrade() -> None:
    # Neither database builds the table anew for these, so foreign keys to it and counters of ids stay what they are.
    op.execute('alter table trials rename column stop_why to order_why')
    op.execute(f'alter table trials add column "order" varchar(8) constraint ck_trials_order check ({ORDER})')
    op.execute(
        'alter table trials add column ordered_by varchar(8) '
        "constraint ck_trials_ordered_by check (ordered_by in ('user','study'))"
    )
    op.add_column('trials', sa.Column('idempotency_key', sa.String(length=200), nullable=True))
    by = "case when {} = 'stopped by a user' then 'user' else 'study' end"
    op.execute(
        f"""update trials set "order" = 'stop', ordered_by = {by.format('order_why')}
        where state = 'running' and order_why is not null"""
    )
    op.execute("update trials set order_why = null where state <> 'running'")
    op.execute(f"update trials set ordered_by = {by.format('reason')} where state = 'cancelled'")
    op.create_index(
        'ix_trials_enqueued', 'trials', ['study_id', 'stack', 'number'],
        sqlite_where=ENQUEUED, postgresql_where=ENQUEUED,
    )  # fmt: skip
    op.create_index('uq_trials_idempotency', 'trials', KEY, unique=True)
    op.add_column('studies', sa.Column('edition', sa.Integer(), nullable=False, server_default='0'))
    op.add_column('studies', sa.Column('submitted', sa.String(length=64), nullable=True))
    op.add_column('studies', sa.Column('reopened_at', storage.columns.UtcTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ('reopened_at', 'submitted', 'edition'):
        op.drop_column('studies', name)
    op.drop_index('uq_trials_idempotency', 'trials')
    op.drop_index('ix_trials_enqueued', 'trials')
    # A pause is withdrawn, and what is paused is queued: the earlier version knows neither.
    op.execute("""update trials set order_why = null where "order" is null or "order" = 'pause'""")
    op.execute("update trials set state = 'queued' where state = 'paused'")
    op.execute("update studies set state = 'running' where state = 'paused'")
    for name in ('idempotency_key', 'ordered_by', '"order"'):
        op.execute(f'alter table trials drop column {name}')
    op.execute('alter table trials rename column order_why to stop_why')
