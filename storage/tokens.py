"""Queries on access tokens. Only digests are stored: who reads the database cannot log in with what it holds."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.errors import NotFound
from tuner.wire.access import Role


@dataclass(frozen=True)
class TokenRecord:
    """A token as stored."""

    id: int
    digest: str
    cookie_digest: str
    role: Role
    label: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at a time."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


def _record(row: t.Token) -> TokenRecord:
    found = {name: getattr(row, name) for name in TokenRecord.__dataclass_fields__}
    return TokenRecord(**{**found, "role": Role(row.role)})


def create(
    session: Session,
    *,
    digest: str,
    cookie_digest: str,
    role: Role,
    label: str,
    created_by: str,
    expires_at: datetime | None,
    now: datetime,
) -> TokenRecord:
    """Store a token by its digests."""
    row = t.Token(
        digest=digest, cookie_digest=cookie_digest, role=role, label=label, created_by=created_by,
        expires_at=expires_at, created_at=now,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return _record(row)


def every(session: Session) -> list[TokenRecord]:
    """List all tokens, revoked ones too, the oldest first."""
    return [_record(row) for row in session.scalars(select(t.Token).order_by(t.Token.id))]


def unrevoked(session: Session) -> list[TokenRecord]:
    """List the tokens that nobody revoked."""
    query = select(t.Token).where(t.Token.revoked_at.is_(None)).order_by(t.Token.id)
    return [_record(row) for row in session.scalars(query)]


def admins(session: Session) -> list[TokenRecord]:
    """List the admins' tokens that nobody revoked."""
    return [token for token in unrevoked(session) if token.role == Role.ADMIN]


def revoke(session: Session, *, token_id: int, now: datetime) -> TokenRecord:
    """Revoke a token; one that was revoked before keeps its time.

    Raises:
        NotFound: there is no such token.
    """
    session.execute(update(t.Token).where(t.Token.id == token_id, t.Token.revoked_at.is_(None)).values(revoked_at=now))
    row = session.scalars(select(t.Token).where(t.Token.id == token_id)).one_or_none()
    if row is None:
        raise NotFound(f"no token {token_id}")
    return _record(row)
