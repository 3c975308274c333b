"""Trials.

GET  /studies/{study}/trials                      list
POST /studies/{study}/trials                      enqueue a given configuration
GET  /studies/{study}/trials/{number}             one trial
GET  /studies/{study}/trials/{number}/curve       a metric over examples
GET  /studies/{study}/trials/{number}/log         the end of what it printed
GET  /studies/{study}/trials/{number}/weights     the best trial's weights, a safetensors file
POST /studies/{study}/trials/{number}/stop        stop it
POST /studies/{study}/trials/{number}/retry       try it again
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from api.downloads import download
from api.plans import Plan
from api.requests import CheckedRoute
from api.results.curves import curve as build_curve
from api.results.weights import stored_weights
from api.routes.studies import cursor_number
from api.state import Server, Srv
from api.views import trial_view, trial_views
from storage import logs, studies, trials
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.errors import Fault, InvalidInput
from tuner.study.states import TrialState
from tuner.wire.commands import Enqueue
from tuner.wire.message import Number
from tuner.wire.views import Curve, LogView, Page, TrialView

router = APIRouter(prefix="/studies/{study}/trials", tags=["trials"], route_class=CheckedRoute)


@router.get("", response_model=Page[TrialView])
async def list_trials(
    server: Srv,
    request: Request,
    study: str,
    state: TrialState | None = None,
    sort: str = "number",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
) -> Response:
    """List a study's trials. `sort` takes a column, with a minus sign for descending order."""
    key = sort.removeprefix("-")
    if key not in trials.SORTABLE:
        raise InvalidInput([Fault("sort", f"{sort!r} given; allowed are {', '.join(trials.SORTABLE)}, or -column")])
    offset, descending = cursor_number(cursor) or 0, sort.startswith("-")

    def page(session: Session, record: StudyRecord, plan: Plan) -> Page[TrialView]:
        order: dict[str, Any] = {"state": state, "sort": key, "descending": descending}
        found = trials.page(session, study_id=record.id, offset=offset, limit=limit + 1, **order)
        items = trial_views(session, record, found[:limit])
        return Page(items=items, next_cursor=str(offset + limit) if len(found) > limit else None)

    return await server.answers.light(request, study, f"trials {state} {sort} {offset} {limit}", page)


@router.post("", status_code=201)
def enqueue(
    server: Srv, study: str, wish: Enqueue, idempotency_key: Annotated[str | None, Header()] = None
) -> TrialView:
    """Train a given configuration: it counts in run_cap, and is trained before proposals that wait.

    What is left out takes the study's fixed value, or the documented default.
    """
    trial = server.commands.enqueue(study, wish.params, idempotency_key=idempotency_key)
    return _shown(server, trial)


@router.get("/{number}", response_model=TrialView)
async def show(server: Srv, request: Request, study: str, number: Number) -> Response:
    """Show one trial."""

    def trial(session: Session, record: StudyRecord, plan: Plan) -> TrialView:
        return trial_view(session, record, trials.get(session, study_id=record.id, number=number))

    return await server.answers.light(request, study, f"trial {number}", trial)


@router.get("/{number}/curve", response_model=Curve)
async def curve(
    server: Srv,
    request: Request,
    study: str,
    number: Number,
    metric: Annotated[str | None, Query(description="default: the study's metric")] = None,
    points: Annotated[int, Query(ge=2, le=1000)] = 200,
) -> Response:
    """Show a metric of a trial over the examples seen."""

    def drawn(session: Session, record: StudyRecord, plan: Plan) -> Curve:
        trial = trials.get(session, study_id=record.id, number=number)
        return build_curve(session, record, trial, metric=metric or plan.spec.metric.name, points=points)

    return await server.answers.light(request, study, f"curve {number} {points} {metric}", drawn)


@router.get("/{number}/log", response_model=LogView)
async def log(
    server: Srv,
    request: Request,
    study: str,
    number: Number,
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="default: the latest with a log")] = None,
) -> Response:
    """Show the end of what a trial printed: of a script all of its output, of an engine's trial only if it failed."""

    def kept(session: Session, record: StudyRecord, plan: Plan) -> LogView:
        trial = trials.get(session, study_id=record.id, number=number)
        found = logs.latest(session, trial_id=trial.id, attempt=attempt)
        if found is None:
            return LogView(study=record.name, number=number, attempt=attempt or trial.attempt, text="", written=0)
        return LogView(
            study=record.name,
            number=number,
            attempt=found.attempt,
            text=found.text,
            written=found.written,
            updated_at=found.updated_at,
        )

    return await server.answers.light(request, study, f"log {number} {attempt}", kept)


@router.get("/{number}/weights", response_class=Response)
def weights(server: Srv, study: str, number: Number) -> Response:
    """Download a trial's weights as safetensors (ETag: SHA-256). Only a study's best trial keeps its weights."""
    with server.database.read() as session:
        record = studies.get(session, study)
        stored = stored_weights(session, trials.get(session, study_id=record.id, number=number))
    return download(server.store, stored.path, filename=f"{record.name}-{number}.safetensors", digest=stored.digest)


@router.post("/{number}/stop")
def stop(server: Srv, study: str, number: Number) -> TrialView:
    """Stop a trial: a queued one is cancelled at once, a running one ends within seconds."""
    return _shown(server, server.commands.stop_trial(study, number))


@router.post("/{number}/retry")
def retry(server: Srv, study: str, number: Number) -> TrialView:
    """Try a failed, cancelled or infeasible trial again under its number, from its last checkpoint if there is one.

    A completed or failed study goes on for it.
    """
    return _shown(server, server.commands.retry_trial(study, number))


def _shown(server: Server, trial: TrialRecord) -> TrialView:
    with server.database.read() as session:
        return trial_view(session, studies.get(session, trial.study_id), trial)
