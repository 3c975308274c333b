"""What a sampler is shown of a family, and a study's best trial, are found without reading all its trials."""

from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index('ix_trials_study_value', 'trials', ['study_id', 'state', 'value', 'number'])
    op.drop_index('ix_trials_study_state', 'trials')
    op.create_index('ix_trials_family_value', 'trials', ['study_id', 'family', 'state', 'value', 'number'])
    op.create_index('ix_trials_family_number', 'trials', ['study_id', 'family', 'number'])


def downgrade() -> None:
    op.drop_index('ix_trials_family_number', 'trials')
    op.drop_index('ix_trials_family_value', 'trials')
    op.create_index('ix_trials_study_state', 'trials', ['study_id', 'state'])
    op.drop_index('ix_trials_study_value', 'trials')
