"""The page of the trials that ended last is read from an index."""

from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index('ix_trials_study_finished', 'trials', ['study_id', 'finished_at'])


def downgrade() -> None:
    op.drop_index('ix_trials_study_finished', 'trials')
