"""Tokens have a cookie of their own, an end and a creator; events say who asked. No token was ever stored before."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None



def old() -> list[sa.Column[Any]]:
    return [
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('role', sa.String(length=16), nullable=False),
        sa.Column('label', sa.String(length=200), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    ]


def new() -> list[sa.Column[Any]]:
    return [
        sa.Column('cookie_digest', sa.String(length=64), nullable=False),
        sa.Column('created_by', sa.String(length=200), nullable=False),
        sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    ]


def upgrade() -> None:
    op.drop_table('tokens')
    _create('digest', 'cookie_digest', columns=[*old(), *new()], sqlite_autoincrement=True)
    op.add_column('events', sa.Column('by', sa.String(length=200), nullable=True))


def downgrade() -> None:
    op.drop_column('events', 'by')
    op.drop_table('tokens')
    _create('digest', columns=old())


def _create(*unique: str, columns: list[sa.Column[Any]], **options: Any) -> None:
    op.create_table(
        'tokens',
        sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint('id', name=op.f('pk_tokens')),
        *(sa.UniqueConstraint(name, name=op.f(f'uq_tokens_{name}')) for name in unique),
        **options,
    )
