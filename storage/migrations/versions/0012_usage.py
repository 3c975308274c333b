"""Studies count the time that they ran and the device time that they took; of earlier ones nothing is known."""

import sqlalchemy as sa
from alembic import op

import storage.columns

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('studies', sa.Column('spent_s', sa.Double(), nullable=False, server_default='0'))
    op.add_column('studies', sa.Column('running_since', storage.columns.UtcTime(timezone=True), nullable=True))
    op.add_column('studies', sa.Column('device_s', sa.Double(), nullable=False, server_default='0'))
    op.execute("update studies set running_since = started_at where state = 'running'")


def downgrade() -> None:
    for column in ('device_s', 'running_since', 'spent_s'):
        op.drop_column('studies', column)
