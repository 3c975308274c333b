"""Slot-ticks belong to attempts."""

from alembic import op
import sqlalchemy as sa

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('attempts', sa.Column('ticks', sa.BigInteger(), nullable=False, server_default='0'))
    op.add_column('attempts', sa.Column('computed', sa.Double(), nullable=False, server_default='0'))
    op.drop_table('slot_use')


def downgrade() -> None:
    op.create_table('slot_use',
    sa.Column('study_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('worker_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('busy', sa.BigInteger(), nullable=False),
    sa.Column('offered', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('busy <= offered', name=op.f('ck_slot_use_busy_within_offered')),
    sa.ForeignKeyConstraint(['study_id'], ['studies.id'], name=op.f('fk_slot_use_study_id_studies'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['worker_id'], ['workers.id'], name=op.f('fk_slot_use_worker_id_workers')),
    sa.PrimaryKeyConstraint('study_id', 'worker_id', 'device', name=op.f('pk_slot_use'))
    )
    op.drop_column('attempts', 'computed')
    op.drop_column('attempts', 'ticks')
