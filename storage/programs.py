"""Queries on the programs of reproducible studies: each is pinned to the program of its first attempt.

Until a study is pinned, only one device at a time has a lease on it, and only one lease; the caller's transaction locks
the study's row meanwhile. A program without any results (its stack was dropped before any report) may be unpinned
again.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import and_, exists, select, update
from sqlalchemy.orm import Session

from storage import tables as t
from tuner.study.hyperparameter import Scalar
from tuner.study.program import fingerprint
from tuner.study.states import StudyState, TrialState


def pin(session: Session, *, study_id: int, program: Mapping[str, Scalar | None]) -> bool:
    """Pin the study to a program; False if it is already pinned."""
    moved = session.execute(
        update(t.Study)
        .where(t.Study.id == study_id, t.Study.program.is_(None))
        .values(program=dict(program))
        .returning(t.Study.id)
    ).one_or_none()
    return moved is not None


def unpin(session: Session, *, study_id: int) -> bool:
    """Unpin a study if no live attempt runs its program and no trial has reported anything; return whether it was."""
    own = t.Trial.study_id == study_id
    live = select(t.Attempt.trial_id).join(t.Trial).where(own, t.Attempt.outcome.is_(None), _started())
    told = select(t.Report.trial_id).join(t.Trial, t.Trial.id == t.Report.trial_id).where(own)
    ended = select(t.Trial.id).where(own, t.Trial.state.in_((TrialState.COMPLETED, TrialState.INFEASIBLE)))
    moved = session.execute(
        update(t.Study)
        .where(t.Study.id == study_id, t.Study.program.is_not(None), ~exists(live), ~exists(told), ~exists(ended))
        .values(program=None)
        .returning(t.Study.id)
    ).one_or_none()
    return moved is not None


def on_trial(session: Session, *, worker_id: int, device: str, declines: Collection[str] = ()) -> dict[int, int]:
    """Return how many more leases a device may have now, by study id, for reproducible studies with a limit.

    A device that has shown that it runs the study's program may have any number of leases. Any other device may have
    one, to show it; or none while the study has no program and another device is about to determine it. `declines` are
    fingerprints of programs that the device does not run.
    """
    query = select(t.Study.id, t.Study.program).where(
        t.Study.state == StudyState.RUNNING, t.Study.document["reproducible"].as_boolean().is_(True)
    )
    if session.get_bind().dialect.name == "postgresql":
        query = query.order_by(t.Study.id).with_for_update()
    limits: dict[int, int] = {}
    for study_id, program in session.execute(query).all():
        if program is not None and fingerprint(program) in declines:
            limits[study_id] = 0
            continue
        here = and_(t.Attempt.worker_id == worker_id, t.Attempt.device == device)
        of_study = select(t.Attempt.trial_id).join(t.Trial).where(t.Trial.study_id == study_id)
        proven = exists(of_study.where(here, _started(), t.Attempt.outcome.is_distinct_from("displaced")))
        live = exists(of_study.where(t.Attempt.outcome.is_(None), *([] if program is None else [here])))
        if program is None or not session.execute(select(proven)).scalar_one():
            limits[study_id] = 0 if session.execute(select(live)).scalar_one() else 1
    return limits


def last_decline(session: Session, *, study_id: int) -> tuple[str, str] | None:
    """Return the last worker that returned a trial of a study because it runs another program, and its message."""
    query = (
        select(t.Worker.name, t.Attempt.error)
        .join(t.Worker, t.Worker.id == t.Attempt.worker_id)
        .join(t.Trial, t.Trial.id == t.Attempt.trial_id)
        .where(t.Trial.study_id == study_id, t.Attempt.outcome == "displaced", t.Attempt.error.is_not(None))
        .order_by(t.Attempt.ended_at.desc())
        .limit(1)
    )
    found = session.execute(query).one_or_none()
    return None if found is None else (found[0], found[1] or "")


def _started() -> Any:
    """Return whether an attempt has entered a stack."""
    return t.Attempt.fingerprint.is_not(None)
