"""Quarantine: a worker whose processes died under several trials in a row gets no trials for a while.

A broken GPU or a full disk of one machine would otherwise use up the attempts of every trial of a study, one after the
other. The trials must be different ones: one trial that kills every process is the trial's fault, and fails by itself.
What does not come back in order is told in the list of workers, and by the study that waits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from api.sync.endings import Ending
from storage import workers
from storage.workers import WorkerRecord

IN_A_ROW = 3
"""Attempts on different trials whose process died."""
FOR = timedelta(minutes=10)


def quarantine(session: Session, worker: WorkerRecord, endings: Sequence[Ending], now: datetime) -> str | None:
    """Quarantine a worker if its last attempts all crashed; return why. Call once the endings are saved."""
    if not any(ending.outcome == "crashed" for ending in endings):
        return None
    last = workers.last_endings(session, worker_id=worker.id, limit=IN_A_ROW)
    if len(last) < IN_A_ROW or len({trial for trial, _ in last}) < IN_A_ROW:
        return None
    if any(outcome != "crashed" for _, outcome in last):
        return None
    why = f"its process died under {IN_A_ROW} trials in a row"
    workers.quarantine(session, worker_id=worker.id, until=now + FOR, why=why)
    return why
