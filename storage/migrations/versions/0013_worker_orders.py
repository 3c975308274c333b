"""Workers can be told to leave, and get no trials for a while after failures that were theirs."""

import sqlalchemy as sa
from alembic import op

import storage.columns

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('workers', sa.Column('draining', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column('workers', sa.Column('quarantined_until', storage.columns.UtcTime(timezone=True), nullable=True))
    op.add_column('workers', sa.Column('quarantine_why', sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ('quarantine_why', 'quarantined_until', 'draining'):
        op.drop_column('workers', column)
