"""Trials know their place in their family's sequence and why they exist; `run_cap` has a counter of its own."""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('trials') as batch:
        batch.add_column(sa.Column('family_index', sa.Integer(), nullable=True))
        batch.add_column(sa.Column('origin', sa.String(length=16), nullable=False, server_default='proposed'))
        batch.add_column(sa.Column('parent', sa.Integer(), nullable=True))
    # Until now every trial was a proposal, and a family's trials were its sequence in the order of their numbers.
    op.execute("""
        update trials set family_index = ranked.place from (
            select id, row_number() over (partition by study_id, family order by number) - 1 as place from trials
        ) as ranked where ranked.id = trials.id
    """)
    with op.batch_alter_table('trials') as batch:
        batch.alter_column('origin', server_default=None)
        batch.create_unique_constraint('uq_trials_proposal', ['study_id', 'family', 'family_index'])
        batch.create_foreign_key(
            'fk_trials_parent', 'trials', ['study_id', 'parent'], ['study_id', 'number'], ondelete='CASCADE'
        )
        batch.create_check_constraint(op.f('ck_trials_origin'), "origin in ('proposed','enqueued','replicate','branch')")
        batch.create_check_constraint(
            op.f('ck_trials_proposed_has_index'), "(origin = 'proposed') = (family_index is not null)"
        )
        batch.create_check_constraint(
            op.f('ck_trials_derived_has_parent'), "(origin in ('replicate','branch')) = (parent is not null)"
        )

    with op.batch_alter_table('studies') as batch:
        batch.add_column(sa.Column('runs', sa.Integer(), nullable=False, server_default='0'))
    op.execute('update studies set runs = trials_created')
    with op.batch_alter_table('studies') as batch:
        batch.alter_column('runs', server_default=None)
        batch.drop_constraint(op.f('ck_studies_cap'), type_='check')
        batch.create_check_constraint(op.f('ck_studies_cap'), 'runs <= run_cap')
        batch.create_check_constraint(op.f('ck_studies_runs'), 'runs <= trials_created')


def downgrade() -> None:
    # Trials beyond the cap (replicates and branches) have no place in the earlier schema.
    op.execute("delete from trials where parent is not null")
    op.execute('update studies set trials_created = runs')
    with op.batch_alter_table('studies') as batch:
        batch.drop_constraint(op.f('ck_studies_runs'), type_='check')
        batch.drop_constraint(op.f('ck_studies_cap'), type_='check')
        batch.create_check_constraint(op.f('ck_studies_cap'), 'trials_created <= run_cap')
        batch.drop_column('runs')
    with op.batch_alter_table('trials') as batch:
        for name in ('derived_has_parent', 'proposed_has_index', 'origin'):
            batch.drop_constraint(op.f(f'ck_trials_{name}'), type_='check')
        batch.drop_constraint('fk_trials_parent', type_='foreignkey')
        batch.drop_constraint('uq_trials_proposal', type_='unique')
        for name in ('parent', 'origin', 'family_index'):
            batch.drop_column(name)
