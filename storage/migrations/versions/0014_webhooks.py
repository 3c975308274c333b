"""Studies may name an address that is told of their end."""

import sqlalchemy as sa
from alembic import op

import storage.columns

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('studies', sa.Column('webhook', sa.Text(), nullable=True))
    op.add_column('studies', sa.Column('told_end', storage.columns.UtcTime(timezone=True), nullable=True))
    op.add_column('studies', sa.Column('telling_tries', sa.Integer(), nullable=False, server_default='0'))
    op.add_column('studies', sa.Column('telling_next', storage.columns.UtcTime(timezone=True), nullable=True))


def downgrade() -> None:
    for column in ('telling_next', 'telling_tries', 'told_end', 'webhook'):
        op.drop_column('studies', column)
