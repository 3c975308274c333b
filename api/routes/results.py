"""What a study found.

GET /studies/{study}/best                  the winner, with a snippet to paste
GET /studies/{study}/leaderboard           optimizers by their best trial
GET /studies/{study}/batch-advice          batch sizes to use, with intervals and grades
GET /studies/{study}/figures/{name}        a Plotly figure
GET /studies/{study}/trials/{number}/figures/{name}   a figure of one trial
"""

from collections.abc import Callable

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api import figures
from api.figures import FIGURES, Figure
from api.plans import Plan
from api.results import noise, winners
from api.results.curves import curves
from api.state import Srv
from api.views import bare_trial_views, study_view
from storage import studies, trials
from storage.studies import StudyRecord
from tuner.errors import NotFound
from tuner.wire.message import Number
from tuner.wire.views import BatchAdviceList, Best, Leaderboard, StudyView, TrialView

router = APIRouter(prefix="/studies/{study}", tags=["results"])
CURVES_SHOWN, CURVE_POINTS = 100, 100


@router.get("/best")
def best(server: Srv, study: str) -> Best:
    """Show the best completed trial, its evidence, and Python to paste."""
    with server.database.read() as session:
        record = studies.get(session, study)
        return winners.best(session, record, server.plans.of(record))


@router.get("/leaderboard")
def leaderboard(server: Srv, study: str) -> Leaderboard:
    """Rank the optimizers by their best trial."""
    with server.database.read() as session:
        record = studies.get(session, study)
        return winners.leaderboard(session, record, server.plans.of(record))


@router.get("/batch-advice")
def batch_advice(server: Srv, study: str) -> BatchAdviceList:
    """Recommend batch sizes from the gradient noise measured in the study."""
    with server.database.read() as session:
        record = studies.get(session, study)
        return noise.batch_advice(session, record, server.plans.of(record))


@router.get("/figures/{name}", response_model=None)
def figure(server: Srv, study: str, name: str) -> Figure:
    """Draw a figure, as Plotly JSON."""
    if name not in FIGURES:
        raise NotFound(f"no figure {name!r}; available are {', '.join(FIGURES)}")
    with server.database.read() as session:
        record = studies.get(session, study)
        plan = server.plans.of(record)
        progress = studies.progress(session, study_ids=[record.id])
        view = study_view(session, record, plan, progress.get(record.id))
        return BUILDERS[name](session, record, plan, view)


@router.get("/trials/{number}/figures/noise", response_model=None)
def trial_noise(server: Srv, study: str, number: Number) -> Figure:
    """Draw the noise scale along one trial."""
    with server.database.read() as session:
        record = studies.get(session, study)
        trial = trials.get(session, study_id=record.id, number=number)
        progress = studies.progress(session, study_ids=[record.id])
        view = study_view(session, record, server.plans.of(record), progress.get(record.id))
        return figures.noise(view, noise.trial_trace(session, trial))


def _all(session: Session, record: StudyRecord) -> list[TrialView]:
    return bare_trial_views(record, trials.of_study(session, study_id=record.id))


def _curves(session: Session, record: StudyRecord, plan: Plan, view: StudyView) -> Figure:
    shown = trials.page(
        session,
        study_id=record.id,
        sort="value",
        descending=not plan.minimize,
        limit=CURVES_SHOWN,
    )
    found = curves(session, record, shown, metric=plan.spec.metric.name, points=CURVE_POINTS)
    return figures.curves(view, _all(session, record), found)


BUILDERS: dict[str, Callable[[Session, StudyRecord, Plan, StudyView], Figure]] = {
    "curves": _curves,
    "loss_vs_lr": lambda session, record, plan, view: figures.loss_vs_lr(view, _all(session, record)),
    "lr_batch": lambda session, record, plan, view: figures.lr_batch(view, _all(session, record)),
    "progress": lambda session, record, plan, view: figures.progress(view, _all(session, record)),
    "noise": lambda session, record, plan, view: figures.noise(view, noise.noise_trace(session, record, plan)),
    "batch_advice": lambda session, record, plan, view: figures.batch_advice(
        view, noise.batch_advice(session, record, plan)
    ),
}
