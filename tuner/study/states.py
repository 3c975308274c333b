"""States of studies and trials, what a trial is told, and why it exists.

Which state of a study may follow which is a table here. For trials it is stated by the guards of the updates in
`storage/trials.py` and `storage/orders.py`: queued → running → a terminal state, queued again, or paused; paused →
queued; and what failed, was cancelled or is infeasible is queued again when a user says so.
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


class Order(State):
    """What a running trial was told and has not done yet."""

    STOP = "stop"
    PRUNE = "prune"
    PAUSE = "pause"

    def replaces(self, other: "Order | None") -> bool:
        """Whether it is given to a trial that has another: what ends a trial goes before what lets it go on."""
        return other is None or (other is Order.PAUSE and self is not Order.PAUSE)


class OrderedBy(State):
    """Who ordered or cancelled a trial. What ended its study is undone with that end; a user's own word is not."""

    USER = "user"
    STUDY = "study"


S, T = StudyState, TrialState

STUDY_TRANSITIONS: dict[StudyState, frozenset[StudyState]] = {
    S.RUNNING: frozenset({S.PAUSED, S.COMPLETED, S.STOPPED, S.FAILED}),
    S.PAUSED: frozenset({S.RUNNING, S.STOPPED}),
    S.COMPLETED: frozenset({S.RUNNING}),  # a raised cap reopens it
    S.STOPPED: frozenset({S.RUNNING}),
    S.FAILED: frozenset({S.RUNNING}),
}

RETRIED: frozenset[TrialState] = frozenset({T.FAILED, T.CANCELLED, T.INFEASIBLE})
"""Ended trials that a user may have tried again."""

TERMINAL: frozenset[TrialState] = frozenset({T.COMPLETED, T.PRUNED, T.FAILED, T.INFEASIBLE, T.CANCELLED})


def check_study(old: StudyState, new: StudyState) -> None:
    """Raise `InvalidTransition` unless a study may go from `old` to `new`."""
    if new not in STUDY_TRANSITIONS[old]:
        allowed = ", ".join(sorted(STUDY_TRANSITIONS[old])) or "nothing"
        raise InvalidTransition(f"the study is {old}; it cannot become {new} (from {old} it may become: {allowed})")
