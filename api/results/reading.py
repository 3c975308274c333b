"""One reading of a study: its row, its plan and its trials, as one transaction sees them.

Figures and results are functions of a reading.
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
    """What figures and results of a study are made from; `trials` are all of them, by number."""

    session: Session
    study: StudyRecord
    plan: Plan
    board: Board
    trials: Sequence[TrialPoint]


class Readings:
    """Opens readings. Safe to use from any thread."""

    def __init__(self, database: Database, plans: Plans, boards: Boards) -> None:
        self._database = database
        self._plans = plans
        self._boards = boards

    @contextmanager
    def of(self, study_id: int, *, growing: bool = False) -> Iterator[Reading]:
        """Read a study; `growing`: with the examples that running trials have seen by now.

        Raises:
            NotFound: it was deleted.
        """
        board = self._boards.of(study_id)
        trials = None
        while trials is None:  # another reading has seen more than this transaction does: begin a newer one
            with self._database.read() as session:
                study = studies.get(session, study_id)
                trials = board.trials(session, study, growing=growing)
                if trials is not None:
                    yield Reading(session, study, self._plans.of(study), board, trials)
