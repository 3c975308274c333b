"""Queries on what studies have used: examples promised to trials, time, device time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, case, func, select, update
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.states import TERMINAL


@dataclass(frozen=True)
class Times:
    """The time that a study has used until now, in seconds."""

    wall_clock_s: float
    """While it ran, from its first lease on; pauses do not count."""
    device_s: float
    """That it held devices, added up; of devices that it shared, its share."""

    @property
    def device_hours(self) -> float:
        """The same in hours."""
        return self.device_s / 3600.0


def times(session: Session, *, study_id: int, now: datetime) -> Times:
    """Return the time that a study has used."""
    columns = (t.Study.spent_s, t.Study.running_since, t.Study.device_s)
    spent_s, since, device_s = session.execute(select(*columns).where(t.Study.id == study_id)).one()
    return Times(spent_s + _running_s(since, now), device_s)


def examples(session: Session, *, study_id: int) -> int:
    """Return the examples that the trials of a study have seen or may see: exact in a transaction that holds it."""
    promised = case((t.Trial.state.in_(TERMINAL), t.Trial.examples), else_=t.Trial.total_examples)
    return int(session.execute(select(func.sum(promised)).where(t.Trial.study_id == study_id)).scalar() or 0)


def stop_clock(session: Session, *, study_id: int, now: datetime) -> None:
    """Note the time that a study has run until now, and that it does not run any more."""
    columns = (t.Study.spent_s, t.Study.running_since)
    spent_s, since = session.execute(select(*columns).where(t.Study.id == study_id)).one()
    values = {"spent_s": spent_s + _running_s(since, now), "running_since": None}
    session.execute(update(t.Study).where(t.Study.id == study_id).values(**values))


def _running_s(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0


def add_device_time(session: Session, *, seconds: Mapping[int, float]) -> None:
    """Add to the device time of studies."""
    statement = (
        update(t.Study.__table__)  # type: ignore[arg-type]
        .where(t.Study.id == bindparam("key"))
        .values(device_s=t.Study.device_s + bindparam("more"))
    )
    session.connection().execute(statement, [{"key": key, "more": more} for key, more in sorted(seconds.items())])
