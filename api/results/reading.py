"""One reading of a study: its row, its plan and its trials, as one transaction sees them.

Figures and results are functions of a reading. Readings of a study are made one after the other, so that what one has
kept on the study's board is never newer than the transaction of the next.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.plans import Plan, Plans
from api.results.boards import Board, Boards
from storage import studies
from storage.database import Database
from storage.points import TrialPoint
from storage.studies import StudyRecord


@dataclass(frozen=True)
class Reading:
    """What figures and results of a study are made from."""

    session: Session
    study: StudyRecord
    plan: Plan
    board: Board

    def trials(self, *, growing: bool = False) -> Sequence[TrialPoint]:
        """Return all trials by number; `growing`: with the examples seen by now, else those of the latest change."""
        if growing:
            return self.board.read(self.session, self.study.id)
        return self.board.derived("trials", self.study.revision, lambda: self.board.read(self.session, self.study.id))


class Readings:
    """Opens readings. Safe to use from any thread."""

    def __init__(self, database: Database, plans: Plans, boards: Boards) -> None:
        self._database = database
        self._plans = plans
        self._boards = boards

    @contextmanager
    def of(self, study_id: int) -> Iterator[Reading]:
        """Read a study; others who want to read it wait.

        Raises:
            NotFound: it was deleted.
        """
        board = self._boards.of(study_id)
        with board.lock, self._database.read() as session:
            study = studies.get(session, study_id)
            yield Reading(session, study, self._plans.of(study), board)
