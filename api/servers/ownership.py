"""Who drives a study: one server at a time. Reads, syncs, reports and commands are every server's."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from sqlalchemy.orm import Session

from tuner.errors import Conflict

TIDYING = 0
"""No study has this id: whoever drives it also tidies the store, which is no single study's."""


class NotOwned(Conflict):
    """Another server drives the study."""


class Ownership(Protocol):
    """Says which studies this server drives. Safe to use from any thread."""

    def acting(self, study_ids: Iterable[int], *, for_s: float = 0.0) -> AbstractContextManager[list[int]]:
        """Yield those of the studies that this server has driven for so long; they stay its own meanwhile.

        Only the loss of its connection takes them away: call `confirm` where something is written.
        """

    def confirm(self, session: Session, study_ids: Iterable[int]) -> None:
        """Make sure, in a transaction that writes, that this server drives these studies still.

        Raises:
            NotOwned: it does not.
        """


class Alone:
    """The only server of its database drives every study."""

    def acting(self, study_ids: Iterable[int], *, for_s: float = 0.0) -> AbstractContextManager[list[int]]:
        """Yield all of them."""
        return nullcontext(list(study_ids))

    def confirm(self, session: Session, study_ids: Iterable[int]) -> None:
        """Do nothing: the claim on the file keeps others away."""
