"""The one line that says what a study needs: a worker, another workload, patience, or a look at its failures.

It is computed from the database, so that every server, the page, `tuner watch` and the API say the same; only trouble
that a server has with a study is that server's own. It is null while all is well.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from storage import notices, programs, workers
from storage.studies import Progress, StudyRecord
from storage.workers import WorkerRecord
from tuner.study.catalogue import EXTERNAL
from tuner.study.program import fingerprint
from tuner.study.states import StudyState, TrialState
from tuner.wire.failures import grouped, headline
from tuner.wire.views import FailureGroup

PATIENCE = timedelta(seconds=5)
"""How old a study is before a missing worker is mentioned: one that is just starting needs a moment."""
LATEST, GROUPS = 100, 3


def waits_for(session: Session, study: StudyRecord, progress: Progress, *, now: datetime, lease_s: float) -> str | None:
    """Describe what a running study is waiting for when it has trials to run but none is running."""
    counts = progress.counts
    stuck = counts.get(TrialState.QUEUED, 0) > 0 and counts.get(TrialState.RUNNING, 0) == 0
    if study.state != StudyState.RUNNING or not stuck:
        return None
    seen = timedelta(seconds=lease_s)
    connected = [worker for worker in workers.recent(session) if now - worker.last_seen <= seen]
    workload = study.document["workload"]["name"]
    known = sorted({each["name"] for worker in connected for each in worker.workloads})
    if any(worker.study_id == study.id for worker in connected):
        return None  # a loop of the user's own is there, and trains what it takes
    if workload not in known and now - study.created_at < PATIENCE:
        return None
    if workload == EXTERNAL and workload not in known:
        return f"your own code: run a loop over Client().ask({study.name!r}), or 'tuner worker --command COMMAND'"
    if not connected:
        return "a worker: none is connected; start one with 'tuner worker'"
    if workload not in known:
        return (
            f"a worker with the workload {workload!r}: those connected know {', '.join(known) or 'none'}; "
            "start one with 'tuner worker --workloads FILE'"
        )
    if closed := _takes_nothing([w for w in connected if workload in {one["name"] for one in w.workloads}], now):
        return closed
    if study.program is not None:
        pinned = ", ".join(f"{name} {value}" for name, value in study.program.items())
        declined = programs.last_decline(session, study_id=study.id)
        offered = f"; {declined[0]}: {declined[1]}" if declined else ""
        return f"a worker that runs program {fingerprint(study.program)} ({pinned}){offered}"
    others = notices.running_beside(session, study_id=study.id)
    if not others:
        return None
    return f"room on a worker: {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it now"


def _takes_nothing(able: Sequence[WorkerRecord], now: datetime) -> str | None:
    """Say why none of the workers that could run a study gets trials; None if one of them does."""
    if any(worker.takes_trials(now) for worker in able):
        return None
    held = [worker for worker in able if worker.quarantined_until is not None and not worker.draining]
    if not held:
        return "a worker: those with its workload are told to leave"
    worker = held[0]
    until, why = f"{worker.quarantined_until:%H:%M} UTC", worker.quarantine_why
    return f"a worker: {worker.name} is quarantined until {until}, since {why}; tuner release {worker.id}"


def failure_groups(session: Session, study: StudyRecord, progress: Progress) -> list[FailureGroup]:
    """Group the latest failures by what they said; where nothing has completed, infeasible trials count as well."""
    states = [TrialState.FAILED]
    if not progress.counts.get(TrialState.COMPLETED, 0):
        states.append(TrialState.INFEASIBLE)
    if not any(progress.counts.get(state, 0) for state in states):
        return []
    found = notices.failures(session, study_id=study.id, states=states, limit=LATEST)
    said = {failure.number: headline(failure.error or "") or failure.reason or "no reason given" for failure in found}
    return [
        FailureGroup(count=count, message=message, trial=min(n for n, text in said.items() if text == message))
        for count, message in grouped(said.values())
    ]


def notice(
    waiting: str | None, groups: list[FailureGroup], progress: Progress, trouble: str | None = None
) -> str | None:
    """Put into one line what keeps the server from driving the study, what it waits for and how its trials failed."""
    parts = [f"the server has trouble with this study and tries again: {trouble}"] if trouble else []
    parts += [f"waiting for {waiting}"] if waiting else []
    if groups:
        parts.append(f"{_how_many(progress.counts)}: {_said(groups)} (see trial {groups[0].trial})")
    return "; ".join(parts) or None


def _how_many(counts: Mapping[str, int]) -> str:
    failed, infeasible = counts.get(TrialState.FAILED, 0), counts.get(TrialState.INFEASIBLE, 0)
    if counts.get(TrialState.COMPLETED, 0):
        return f"{failed} of {sum(counts.values())} trials failed"
    words = [f"{failed} failed"] * bool(failed) + [f"{infeasible} infeasible"] * bool(infeasible)
    return f"no trial has completed, {' and '.join(words)}"


def _said(groups: list[FailureGroup]) -> str:
    said = ", ".join(f"{group.count} x {group.message}" for group in groups[:GROUPS])
    others = len(groups) - GROUPS
    return f"{said}, and {others} other {'message' if others == 1 else 'messages'}" if others > 0 else said
