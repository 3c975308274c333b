"""Studies.

POST   /studies                    submit a study document
GET    /studies                    list, newest first
GET    /studies/{study}            one study, by name or id
PATCH  /studies/{study}            change it, while it runs and after
POST   /studies/{study}/pause      let its trials leave their workers
POST   /studies/{study}/resume     let it go on
POST   /studies/{study}/stop       stop it
POST   /studies/{study}/clone      start another one like it
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
from tuner.wire.commands import Clone
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


@router.patch("/{study}", response_model=StudyDetail)
async def edit(
    server: Srv,
    request: Request,
    study: str,
    changes: Annotated[dict[str, Any], Body(description="keys of the document with their new values")],
) -> Response:
    """Change a study, while it runs and after: title, note, tags, run_cap, parallel, priority, budget.

    Only what is given changes. A raised cap reopens a study that is completed.
    """
    edited = await server.pools.commands.run(server.commands.edit, study, changes)
    return await present.study(server, request, str(edited.id))


@router.post("/{study}/pause", response_model=StudyDetail)
async def pause(server: Srv, request: Request, study: str) -> Response:
    """Pause a study: running trials store their states and leave their workers within seconds; nothing is leased."""
    paused = await server.pools.commands.run(server.commands.pause, study)
    return await present.study(server, request, str(paused.id))


@router.post("/{study}/resume", response_model=StudyDetail)
async def resume(server: Srv, request: Request, study: str) -> Response:
    """Let a paused study go on where it was, bit for bit, or undo the stop of a stopped one."""
    resumed = await server.pools.commands.run(server.commands.resume, study)
    return await present.study(server, request, str(resumed.id))


@router.post("/{study}/clone", status_code=201, response_model=StudyDetail)
async def clone(server: Srv, request: Request, study: str, wish: Clone | None = None) -> Response:
    """Start another study with this one's document, as it is or changed by a merge patch."""
    wish = wish or Clone()
    cloned = await server.pools.commands.run(server.commands.clone, study, name=wish.name, changes=wish.changes)
    return await present.study(server, request, str(cloned.id), status=201)


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
