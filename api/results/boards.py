"""The trials of studies as figures and rankings need them, kept between readings.

A trial that has settled changes no more, nor do its reports, unless a user has it tried again: then its study has
another edition, and everything kept of it is read anew. So each reading asks the database only for trials that had not
settled, and for new ones; and what was read or worked out of settled trials is kept while it is asked for. What is kept
is bounded, and is only ever a copy.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy.orm import Session

from storage import attempts, points
from storage.points import TrialPoint
from storage.studies import StudyRecord
from tuner.study.states import TrialState

T = TypeVar("T")
SETTLED = frozenset({TrialState.COMPLETED, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.CANCELLED})
"""A failed trial may be tried again."""
MOST_TRIALS = 200_000
"""Trials kept, over all studies: some 60 MB."""


class Board:
    """What is kept of one study. Safe to use from any thread; a list of trials, once handed out, does not change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._edition = 0
        self._empty()

    def _empty(self) -> None:
        self._trials: list[TrialPoint] = []
        self._open: set[int] = set()
        self._revision = -1
        self._counted: set[int] = set()
        self._slots = 0, 0.0
        self._derived: dict[str, tuple[Hashable, Any]] = {}
        self._settled: dict[str, dict[int, Any]] = {}

    @property
    def size(self) -> int:
        """How many trials are kept."""
        return len(self._trials)

    def trials(self, session: Session, study: StudyRecord, *, growing: bool = False) -> list[TrialPoint] | None:
        """Return all trials by number, as of the study's revision; `growing`: with the examples seen by now.

        None if the board is ahead of the transaction: what others have settled since, this one may not see whole.
        """
        with self._lock:
            if study.revision < self._revision:
                return None
            if study.edition != self._edition:
                self._empty()
                self._edition = study.edition
            if study.revision > self._revision or growing:
                self._read(session, study.id)
                self._revision = study.revision
            return self._trials

    def slots(self, session: Session, trials: Sequence[TrialPoint]) -> tuple[int, float]:
        """Return the slot-ticks of all attempts of these trials: used, and computed for them."""
        with self._lock:
            new = [trial.id for trial in trials if trial.state in SETTLED and trial.id not in self._counted]
            used, computed = attempts.slot_ticks(session, trial_ids=new)
            self._slots = self._slots[0] + used, self._slots[1] + computed
            self._counted.update(new)
            rest = [trial.id for trial in trials if trial.id not in self._counted]
            more = attempts.slot_ticks(session, trial_ids=rest)
            return self._slots[0] + more[0], self._slots[1] + more[1]

    def _read(self, session: Session, study_id: int) -> None:
        news = points.read(session, study_id=study_id, numbers=self._open)
        trials = list(self._trials)
        for trial in news:
            trials[trial.number] = trial
        new = points.read(session, study_id=study_id, after=len(trials) - 1)  # numbers have no gaps
        self._open = {trial.number for trial in (*news, *new) if trial.state not in SETTLED}
        self._trials = trials + new

    def derived(self, name: str, key: Hashable, work: Callable[[], T]) -> T:
        """Return what was worked out last under a name if it was for the same key, else work it out."""
        known = self._derived.get(name)
        if known is None or known[0] != key:
            known = self._derived[name] = key, work()
        return cast(T, known[1])

    def of_settled(
        self, name: str, trials: Sequence[TrialPoint], read: Callable[[list[TrialPoint]], dict[int, T]]
    ) -> dict[int, T]:
        """Return what `read` says of trials, by id; it is asked only for those that were not settled, or are new."""
        known: dict[int, T] = self._settled.get(name, {})
        found = read([trial for trial in trials if trial.id not in known])
        result = {trial.id: (known if trial.id in known else found)[trial.id] for trial in trials}
        self._settled[name] = {trial.id: result[trial.id] for trial in trials if trial.state in SETTLED}
        return result


class Boards:
    """The boards of the studies that were looked at last. Safe to use from any thread."""

    def __init__(self, most_trials: int = MOST_TRIALS) -> None:
        self._most = most_trials
        self._boards: OrderedDict[int, Board] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, study_id: int) -> Board:
        """Return the board of a study, empty if nothing is kept of it."""
        with self._lock:
            board = self._boards.setdefault(study_id, Board())
            self._boards.move_to_end(study_id)
            while len(self._boards) > 1 and sum(kept.size for kept in self._boards.values()) > self._most:
                self._boards.popitem(last=False)
            return board

    def forget(self, study_id: int) -> None:
        """Drop a deleted study."""
        with self._lock:
            self._boards.pop(study_id, None)
