"""Failures: whether a configuration fails by itself, and when a study in which everything fails gives up.

A configuration that raises the same exception again is evidence about the search space, as divergence is, and is not
tried a third time. A worker that was lost, a process that crashed, or exceptions that differ are not: they say nothing
of it.
"""

import builtins
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tuner.study.states import TrialState

FAILURES = ("lost", "crashed", "error")
"""Outcomes of attempts that count against `retry.max`."""

RESULTS = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.INFEASIBLE)
"""What shows that a study's trials can be trained."""

ADDRESS = r"\b0x[0-9a-fA-F]+"
TEMPORARY = r"(?:/private)?/(?:tmp|var/tmp|var/folders)/[^\s\"']*"
DIRECTORIES = r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\\"']+[/\\])*"
"""What differs between two attempts, or two machines, that fail in the same way."""

NOT_LOADED = "does not load here: "
"""What a worker says of a workload whose function raises, before the exception."""

Attempts = Sequence[tuple[str, str | None]]
"""A failed trial's attempts that count: outcome, and traceback if there is one."""


def exception_of(traceback: str | None) -> str:
    """Return the last line of a traceback, e.g. `ValueError: the loss is negative`."""
    lines = [line.strip() for line in (traceback or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def same_way(traceback: str | None, before: str | None) -> bool:
    """Whether two tracebacks tell word for word of the same failure, but for memory addresses and directories."""
    told = _without_places(traceback or "")
    return told != "" and told == _without_places(before or "")


def _without_places(text: str) -> str:
    for pattern, instead in (ADDRESS, "0x"), (TEMPORARY, "<temporary>"), (DIRECTORIES, ""):
        text = re.sub(pattern, instead, text)
    return text.strip()


def own_failure(attempts: Attempts) -> str | None:
    """Return the exception by which a configuration fails by itself, or None if it is not known to.

    It does if its last two attempts raised the same, or all of them; in the latter case digits may differ: a resumed
    attempt raises at another step.
    """
    last = [exception_of(traceback) for outcome, traceback in attempts[-2:] if outcome == "error"]
    if len(last) == 2 and same_way(*last):
        return last[1]
    raised = [exception_of(traceback) for outcome, traceback in attempts if outcome == "error"]
    kinds = {re.sub(r"\d+", "0", exception) for exception in raised}
    same = len(raised) == len(attempts) and len(kinds) == 1 and kinds != {""}
    return raised[-1] if same else None


def mistake_of_loading(said: Sequence[str]) -> str | None:
    """Return why no device loads a workload, if all of them said the same and it is a mistake in the workload's code.

    What is missing on a machine (a file, a connection, a package) may be there on the next one.
    """
    raised = [text.partition(NOT_LOADED)[2] for text in said]
    if not raised or not all(same_way(text, raised[0]) for text in raised):
        return None
    kind = getattr(builtins, raised[0].partition(":")[0], Exception)
    missing = isinstance(kind, type) and issubclass(kind, OSError | ImportError)
    return None if missing else f"the workload loads on no worker: {raised[0]}"


def gives_up(counts: Mapping[TrialState, int], max_failed: int, *, over: bool, reasons: Sequence[str]) -> str | None:
    """Return why a study ends as failed, or None while it may go on.

    It ends when its first `max_failed` trials have all failed, and when it is `over` and had no result but failures.

    Args:
        counts: its trials by state.
        max_failed: the study's `budget.max_failed`, at least 1.
        over: whether no trial is left to run.
        reasons: why its trials failed, for the message.
    """
    failed = counts.get(TrialState.FAILED, 0)
    if failed == 0 or any(counts.get(state, 0) for state in RESULTS) or not (over or failed >= max_failed):
        return None
    told = "".join(f": {reason}" for reason, _ in Counter(reasons).most_common(1))
    if failed >= max_failed:
        return f"the first {failed} trials all failed (budget.max_failed is {max_failed}){told}"
    return f"{'the only trial' if failed == 1 else f'all {failed} trials'} failed{told}"
