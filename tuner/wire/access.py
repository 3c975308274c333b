"""Who may do what: roles, and the messages about access tokens."""

from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from tuner.study.states import State
from tuner.wire.message import Message


class Role(State):
    """What the owner of a token may do; each of viewer, submitter and admin may do all that the one before may."""

    VIEWER = "viewer"
    """Reads everything."""
    SUBMITTER = "submitter"
    """Also creates, changes, stops and deletes studies, and trains trials by loops of its own."""
    ADMIN = "admin"
    """Also runs workers, and manages workers and tokens."""
    WORKER = "worker"
    """Trains trials in a session of its own, and reads nothing else."""


class NewToken(Message):
    """POST /tokens."""

    role: Role
    label: str = Field(min_length=1, max_length=200, description="whose it is, or what for: it is shown beside actions")
    expires_days: float | None = Field(default=None, gt=0, le=36_500, description="days from now; null: never")

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str) -> str:
        if not label.isprintable() or label != label.strip():
            raise ValueError("a label is one line of printable characters, without blanks at its ends")
        return label


class TokenView(Message):
    """An access token, without its secret."""

    id: int
    role: Role
    label: str
    state: Literal["valid", "expired", "revoked"]
    created_at: datetime
    created_by: str = Field(description="who created it; empty: unknown")
    expires_at: datetime | None
    revoked_at: datetime | None


class CreatedToken(TokenView):
    """A token that was just created: its secret is shown this once."""

    token: str


class SessionView(Message):
    """GET /session: who asks."""

    name: str = Field(description="the token's label, or the name that a proxy gave")
    role: Role
    how: Literal["open", "shared", "token", "proxy", "local"] = Field(
        description="open: the server asks nobody for a token; shared: TUNER_TOKEN; local: the server's own workers"
    )
