"""Queries on slot-ticks: how many a study used of those it was offered, per device of a worker session.

Workers count up from their start and repeat their counts, so a message that is lost, comes twice or comes late changes
nothing: the largest count stands.
"""

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from storage import tables as t


def note(session: Session, *, study_id: int, worker_id: int, device: str, busy: int, offered: int) -> None:
    """Store a device's counts for a study; smaller ones than were stored are of an older message.

    Nothing is stored for a study of which the worker never had a trial, e.g. one that was deleted.
    """
    if not _took_part(session, study_id=study_id, worker_id=worker_id):
        return
    insert = postgresql_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
    statement = insert(t.SlotUse).values(
        study_id=study_id, worker_id=worker_id, device=device, busy=busy, offered=offered
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["study_id", "worker_id", "device"],
            set_={"busy": statement.excluded.busy, "offered": statement.excluded.offered},
            where=t.SlotUse.offered < statement.excluded.offered,
        )
    )


def _took_part(session: Session, *, study_id: int, worker_id: int) -> bool:
    query = (
        select(t.Attempt.trial_id)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .where(t.Attempt.worker_id == worker_id, t.Trial.study_id == study_id)
    )
    return bool(session.execute(select(exists(query))).scalar_one())
