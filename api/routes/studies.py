"""Studies.

POST   /studies                    submit a study document
GET    /studies                    list, newest first
GET    /studies/{study}            one study, by name or id
POST   /studies/{study}/stop       stop it
DELETE /studies/{study}            delete it with all its data
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response

from api import present
from api.requests import CheckedRoute
from api.state import Server, Srv
from storage import studies
from storage.studies import Place
from tuner.errors import Fault, InvalidInput
from tuner.study.states import StudyState
from tuner.wire.views import Page, StudyDetail, StudyView

router = APIRouter(prefix="/studies", tags=["studies"], route_class=CheckedRoute)


@router.post("", status_code=201, response_model=StudyDetail)
async def submit(
    server: Srv,
    request: Request,
    document: Annotated[dict[str, Any], Body(description="the study document")],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Submit a study. All errors in an invalid document are reported at once."""
    created = await server.pools.commands.run(server.commands.submit, document, idempotency_key=idempotency_key)
    return await present.study(server, request, str(created.id), status=201)


@router.get("", response_model=Page[StudyView])
async def list_studies(
    server: Srv,
    request: Request,
    state: StudyState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
) -> Response:
    """List studies, newest first."""
    found = await server.pools.reads.run(_places, server, state, cursor_number(cursor), limit + 1)
    shown = found[:limit]
    return await present.listed(server, request, shown, str(shown[-1].id) if len(found) > limit else None)


@router.get("/{study}", response_model=StudyDetail)
async def show(server: Srv, request: Request, study: str) -> Response:
    """Show one study, by name or id."""
    return await present.study(server, request, study)


@router.post("/{study}/stop", response_model=StudyDetail)
async def stop(server: Srv, request: Request, study: str) -> Response:
    """Stop a study: queued trials are cancelled, running ones end within seconds. Results are kept."""
    stopped = await server.pools.commands.run(server.commands.stop, study)
    return await present.study(server, request, str(stopped.id))


@router.delete("/{study}", status_code=204, response_class=Response)
async def delete(server: Srv, study: str) -> None:
    """Delete a study with its trials, curves and events."""
    server.answers.forget(await server.pools.commands.run(server.commands.delete, study))


def _places(server: Server, state: StudyState | None, before_id: int | None, limit: int) -> list[Place]:
    with server.database.read() as session:
        return studies.places(session, state=state, before_id=before_id, limit=limit)


def cursor_number(cursor: str | None) -> int | None:
    """Decode a cursor from an earlier page."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise InvalidInput([Fault("cursor", f"{cursor!r} is not a cursor from this list")])
    return int(cursor)
