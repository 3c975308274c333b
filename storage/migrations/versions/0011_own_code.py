"""Sessions of a user's own loop take trials of one study, and attempts keep the end of what they printed.

"""

import sqlalchemy as sa
from alembic import op

import storage.columns

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('workers', sa.Column('study_id', sa.BigInteger(), nullable=True))
    op.create_table(
        'logs',
        sa.Column('trial_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('text', sa.Text(), nullable=False),
        sa.Column('written', sa.BigInteger(), nullable=False),
        sa.Column('updated_at', storage.columns.UtcTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ['trial_id', 'attempt'], ['attempts.trial_id', 'attempts.attempt'],
            name='fk_logs_trial_id_attempts', ondelete='CASCADE',
        ),
        sa.PrimaryKeyConstraint('trial_id', 'attempt', name='pk_logs'),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table('logs')
    op.drop_column('workers', 'study_id')
