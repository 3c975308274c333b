"""States of studies and trials, and why a trial exists.

Which state of a study may follow which is a table here. For trials it is stated by the guards of the updates in
`storage/trials.py`: queued → running → a terminal state or queued again.
"""

from enum import StrEnum

from tuner.errors import InvalidTransition


class State(StrEnum):
    """A state that prints as its name, in every container too."""

    def __repr__(self) -> str:
        return repr(self.value)


class StudyState(State):
    """Where a study stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


class TrialState(State):
    """Where a trial stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    CANCELLED = "cancelled"


class Origin(StrEnum):
    """Why a trial exists. A replicate (another seed) and a branch (from a trial's checkpoint) have a parent."""

    PROPOSED = "proposed"
    ENQUEUED = "enqueued"
    REPLICATE = "replicate"
    BRANCH = "branch"

    @property
    def is_run(self) -> bool:
        """Whether such trials count towards `run_cap`."""
        return self in (Origin.PROPOSED, Origin.ENQUEUED)


S, T = StudyState, TrialState

STUDY_TRANSITIONS: dict[StudyState, frozenset[StudyState]] = {
    S.RUNNING: frozenset({S.PAUSED, S.COMPLETED, S.STOPPED, S.FAILED}),
    S.PAUSED: frozenset({S.RUNNING, S.STOPPED}),
    S.COMPLETED: frozenset({S.RUNNING}),  # a raised cap reopens it
    S.STOPPED: frozenset({S.RUNNING}),
    S.FAILED: frozenset({S.RUNNING}),
}

TERMINAL: frozenset[TrialState] = frozenset({T.COMPLETED, T.PRUNED, T.FAILED, T.INFEASIBLE, T.CANCELLED})


def check_study(old: StudyState, new: StudyState) -> None:
    """Raise `InvalidTransition` unless a study may go from `old` to `new`."""
    if new not in STUDY_TRANSITIONS[old]:
        allowed = ", ".join(sorted(STUDY_TRANSITIONS[old])) or "nothing"
        raise InvalidTransition(f"the study is {old}; it cannot become {new} (from {old} it may become: {allowed})")
