"""What a study found.

GET /studies/{study}/best                  the winner, with a snippet to paste
GET /studies/{study}/leaderboard           optimizers by their best trial
GET /studies/{study}/batch-advice          batch sizes to use, with intervals and grades
GET /studies/{study}/figures/{name}        a Plotly figure
GET /studies/{study}/trials/{number}/figures/noise    the noise scale along one trial
"""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from api import figures
from api.figures import FIGURES, Figure
from api.plans import Plan
from api.requests import CheckedRoute
from api.results import curves, noise, winners
from api.results.reading import Reading
from api.results.step_times import StepTimes, TimedOptimizer, read_step_times
from api.state import Srv
from api.views import figure_view
from storage import points, trials
from storage.studies import StudyRecord
from tuner.errors import NotFound
from tuner.wire.message import Number
from tuner.wire.views import BatchAdviceList, Best, Leaderboard, StudyView

router = APIRouter(prefix="/studies/{study}", tags=["results"], route_class=CheckedRoute)


@router.get("/best", response_model=Best)
async def best(server: Srv, request: Request, study: str) -> Response:
    """Show the best completed trial, its evidence, and Python to paste."""
    return await server.answers.light(request, study, "best", winners.best, grows=False)


@router.get("/leaderboard", response_model=Leaderboard)
async def leaderboard(server: Srv, request: Request, study: str) -> Response:
    """Rank the optimizers by their best trial."""
    return await server.answers.heavy(request, study, "leaderboard", winners.leaderboard)


@router.get("/batch-advice", response_model=BatchAdviceList)
async def batch_advice(
    server: Srv, request: Request, study: str, step_times: StepTimes = None, optimizer: TimedOptimizer = None
) -> Response:
    """Recommend batch sizes from the gradient noise measured in the study, and the fastest one if steps were timed."""
    timed = read_step_times(step_times, optimizer)
    what = "batch-advice" if timed is None else f"batch-advice {timed}"
    return await server.answers.heavy(request, study, what, lambda reading: noise.batch_advice(reading, timed))


@router.get("/figures/{name}", response_model=None)
async def figure(server: Srv, request: Request, study: str, name: str) -> Response:
    """Draw a figure, as Plotly JSON."""
    if name not in FIGURES:
        raise NotFound(f"no figure {name!r}; available are {', '.join(FIGURES)}")

    def draw(reading: Reading) -> Figure:
        return BUILDERS[name](reading, figure_view(reading.session, reading.study, reading.plan))

    return await server.answers.heavy(request, study, f"figure {name}", draw, grows=name in GROWING)


@router.get("/trials/{number}/figures/noise", response_model=None)
async def trial_noise(server: Srv, request: Request, study: str, number: Number) -> Response:
    """Draw the noise scale along one trial."""

    def draw(session: Session, record: StudyRecord, plan: Plan) -> Figure:
        trials.get(session, study_id=record.id, number=number)
        (trial,) = points.read(session, study_id=record.id, numbers=[number])
        return figures.noise(figure_view(session, record, plan), noise.trial_trace(session, trial))

    return await server.answers.light(request, study, f"noise {number}", draw)


GROWING = frozenset({"curves"})
"""Figures that change when trials report; the others when one ends."""
BUILDERS: dict[str, Callable[[Reading, StudyView], Figure]] = {
    "curves": lambda reading, view: figures.curves(view, reading.trials, curves.of_study(reading)),
    "loss_vs_lr": lambda reading, view: figures.loss_vs_lr(view, reading.trials),
    "lr_batch": lambda reading, view: figures.lr_batch(view, reading.trials),
    "progress": lambda reading, view: figures.progress(view, reading.trials),
    "noise": lambda reading, view: figures.noise(view, noise.noise_trace(reading)),
    "batch_advice": lambda reading, view: figures.batch_advice(view, noise.batch_advice(reading)),
}
