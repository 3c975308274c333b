"""Trials.

GET  /studies/{study}/trials                      list
GET  /studies/{study}/trials/{number}             one trial
GET  /studies/{study}/trials/{number}/curve       a metric over examples
GET  /studies/{study}/trials/{number}/weights     the best trial's weights, a safetensors file
POST /studies/{study}/trials/{number}/stop        stop it
"""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.downloads import download
from api.requests import CheckedRoute
from api.results.curves import curve as build_curve
from api.results.weights import stored_weights
from api.routes.studies import cursor_number
from api.state import Srv
from api.views import trial_view, trial_views
from storage import studies, trials
from tuner.errors import Fault, InvalidInput
from tuner.study.states import TrialState
from tuner.wire.message import Number
from tuner.wire.views import Curve, Page, TrialView

router = APIRouter(prefix="/studies/{study}/trials", tags=["trials"], route_class=CheckedRoute)


@router.get("")
def list_trials(
    server: Srv,
    study: str,
    state: TrialState | None = None,
    sort: str = "number",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
) -> Page[TrialView]:
    """List a study's trials. `sort` takes a column, with a minus sign for descending order."""
    key = sort.removeprefix("-")
    if key not in trials.SORTABLE:
        raise InvalidInput([Fault("sort", f"{sort!r} given; allowed are {', '.join(trials.SORTABLE)}, or -column")])
    offset = cursor_number(cursor) or 0
    with server.database.read() as session:
        record = studies.get(session, study)
        found = trials.page(
            session,
            study_id=record.id,
            state=state,
            sort=key,
            descending=sort.startswith("-"),
            offset=offset,
            limit=limit + 1,
        )
        items = trial_views(session, record, found[:limit])
    return Page(items=items, next_cursor=str(offset + limit) if len(found) > limit else None)


@router.get("/{number}")
def show(server: Srv, study: str, number: Number) -> TrialView:
    """Show one trial."""
    with server.database.read() as session:
        record = studies.get(session, study)
        return trial_view(session, record, trials.get(session, study_id=record.id, number=number))


@router.get("/{number}/curve")
def curve(
    server: Srv,
    study: str,
    number: Number,
    metric: Annotated[str | None, Query(description="default: the study's metric")] = None,
    points: Annotated[int, Query(ge=2, le=1000)] = 200,
) -> Curve:
    """Show a metric of a trial over the examples seen."""
    with server.database.read() as session:
        record = studies.get(session, study)
        trial = trials.get(session, study_id=record.id, number=number)
        name = metric or server.plans.of(record).spec.metric.name
        return build_curve(session, record, trial, metric=name, points=points)


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
    stopped = server.commands.stop_trial(study, number)
    with server.database.read() as session:
        return trial_view(session, studies.get(session, stopped.study_id), stopped)
