"""pinned programs, fingerprints, slot counts."""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'


def upgrade() -> None:
    big_id = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    op.create_table('slot_use',
    sa.Column('study_id', big_id, nullable=False),
    sa.Column('worker_id', big_id, nullable=False),
    sa.Column('device', sa.String(length=64), nullable=False),
    sa.Column('busy', sa.BigInteger(), nullable=False),
    sa.Column('offered', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('busy <= offered', name=op.f('ck_slot_use_busy_within_offered')),
    sa.ForeignKeyConstraint(['study_id'], ['studies.id'], name=op.f('fk_slot_use_study_id_studies'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['worker_id'], ['workers.id'], name=op.f('fk_slot_use_worker_id_workers')),
    sa.PrimaryKeyConstraint('study_id', 'worker_id', 'device', name=op.f('pk_slot_use'))
    )
    op.add_column('studies', sa.Column('program', sa.JSON(none_as_null=True), nullable=True))
    op.add_column('attempts', sa.Column('fingerprint', sa.String(length=16), nullable=True))


def downgrade() -> None:
    op.drop_column('attempts', 'fingerprint')
    op.drop_column('studies', 'program')
    op.drop_table('slot_use')
