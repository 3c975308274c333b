"""Opening a session of one slot for a user's own loop: POST /studies/{study}/ask.

What follows is the sync protocol (`tuner.wire.sync`), as every worker speaks it.
"""

from pydantic import Field

from tuner.study.states import StudyState
from tuner.wire.message import Message, Text


class Asking(Message):
    """The request. Asking again with the same session gives the same answer."""

    session: str | None = Field(
        default=None,
        min_length=16,
        max_length=64,
        description="random per start of a loop; null: drawn by the server",
    )
    name: Text = Field(default="", max_length=200, description="a label for people")


class Asked(Message):
    """The answer: what to sync with."""

    worker: int = Field(description="syncs go to POST /workers/{worker}/sync")
    session: str = Field(description="names the session in every sync")
    device: str = Field(description="the name of its only slot, for `capacity`")
    lease_s: float = Field(description="a trial is given to another after so many seconds without a sync")
    database: str = Field(description="random, one per database")
    study: str
    study_id: int
    state: StudyState
