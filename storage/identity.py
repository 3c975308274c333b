"""The database's own name: random, made when the schema is."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import tables as t


def token(session: Session) -> str:
    """Return what tells this database from every other one."""
    return session.execute(select(t.Identity.token)).scalar_one()
