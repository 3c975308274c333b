"""A stack is a trial's, not its study's; studies have groups of batch sizes, a priority, and may leave `parallel` open."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = '0007'
down_revision = '0006'

QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    op.add_column('trials', sa.Column('stack', sa.String(length=64), nullable=False, server_default=''))
    op.execute('update trials set stack = (select stack from studies where studies.id = trials.study_id)')
    op.create_index(
        'ix_trials_queue', 'trials', ['study_id', 'stack', 'number'], sqlite_where=QUEUED, postgresql_where=QUEUED
    )
    op.add_column('studies', sa.Column('batch_groups', sa.JSON(), nullable=False, server_default='[]'))
    op.add_column('studies', sa.Column('priority', sa.Double(), nullable=False, server_default='1'))
    op.add_column('studies', sa.Column('served', sa.Double(), nullable=False, server_default='0'))
    with _studies() as batch:
        batch.alter_column('parallel', existing_type=sa.Integer(), nullable=True)
        batch.drop_column('stack')
    names = [sa.column('id'), sa.column('document', sa.JSON()), sa.column('batch_groups', sa.JSON())]
    studies = sa.table('studies', *names)
    for study_id, document in op.get_bind().execute(sa.select(studies.c.id, studies.c.document)).all():
        op.execute(studies.update().where(studies.c.id == study_id).values(batch_groups=_groups(document)))


@contextmanager
def _studies() -> Iterator[BatchOperations]:
    """Change the table of studies. SQLite builds it anew: it goes on counting ids where it was."""
    connection = op.get_bind()
    with op.batch_alter_table('studies', table_kwargs={'sqlite_autoincrement': True}) as batch:
        last = None
        if connection.dialect.name == 'sqlite':
            last = connection.exec_driver_sql("select seq from sqlite_sequence where name = 'studies'").scalar()
        yield batch
    if last is not None:
        connection.exec_driver_sql("delete from sqlite_sequence where name = 'studies'")
        connection.exec_driver_sql("insert into sqlite_sequence (name, seq) values ('studies', ?)", (last,))


def _groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    """All batch sizes of a study in one group, with the micro-batch that it has had: its stack keys stay what they were."""
    budget = document.get('budget', {}).get('examples_per_trial', 20_000)
    shared = document.get('parameters', {}).get('batch_size')
    sizes = set()
    for choice in document.get('optimizers', []):
        given = choice.get('overrides', {}).get('batch_size') or shared or {'value': 32}
        listed = given.get('values') or [given.get('value')]
        own = {int(size) for size in listed if size is not None}
        sizes |= {size for size in own if size <= budget} or own
    if not sizes:
        return []
    return [{'micro_batch': document.get('micro_batch') or _micro_batch(sizes), 'batch_sizes': sorted(sizes)}]


def _micro_batch(sizes: set[int]) -> int:
    """The rule until now: the largest common divisor that gives four parts and is 4 or more, or else two parts."""
    common, smallest = gcd(*sizes), min(sizes)
    divisors = set()
    low = 1
    while low * low <= common:
        divisors |= {low, common // low} if common % low == 0 else set()
        low += 1
    quarter = max((size for size in divisors if size <= smallest // 4), default=1)
    return quarter if quarter >= 4 else max((size for size in divisors if size <= smallest // 2), default=1)


def downgrade() -> None:
    op.add_column('studies', sa.Column('stack', sa.String(length=64), nullable=False, server_default=''))
    op.execute(
        "update studies set stack = coalesce((select min(stack) from trials where trials.study_id = studies.id), '')"
    )
    op.execute('update studies set parallel = run_cap where parallel is null')
    with _studies() as batch:
        batch.alter_column('parallel', existing_type=sa.Integer(), nullable=False)
        for name in ('batch_groups', 'priority', 'served'):
            batch.drop_column(name)
    op.drop_index('ix_trials_queue', 'trials')
    op.drop_column('trials', 'stack')
