"""Live events.

GET /studies/{study}/events     server-sent events
GET /studies/{study}/history    the same changes as a list, the newest first

`change` carries one change of state, with its revision as id (Last-Event-ID resumes after it); `advanced` means that
curves grew, at most once a second; `closing` means that the server is shutting down, `deleted` that the study is gone.
A stream outlasts an outage of the database, and ends within a minute of the token that opened it.
"""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.requests import Request

from api.access.needs import PRINCIPAL
from api.access.principals import Principal
from api.broadcasts import event_view
from api.requests import CheckedRoute
from api.routes.studies import cursor_number
from api.state import Server, Srv
from api.streams import EventStream
from storage import events, studies
from storage.studies import Place
from tuner.errors import Conflict, Fault, InvalidInput
from tuner.wire.views import EventView, Page

router = APIRouter(prefix="/studies/{study}", tags=["events"], route_class=CheckedRoute)


@router.get("/events", response_class=EventStream)
async def stream(
    server: Srv, request: Request, study: str, last_event_id: Annotated[str | None, Header()] = None
) -> EventStream:
    """Follow a study."""
    after = _revision(last_event_id)
    place = await server.answers.place(study)
    streams: list[object] = request.app.state.streams
    if len(streams) >= server.settings.max_event_streams:
        raise Conflict(
            f"{len(streams)} event streams are open; at most {server.settings.max_event_streams} are allowed"
        )
    followed = _follow(server, streams, place, place.revision if after is None else after)
    body = _while_allowed(server, request.scope[PRINCIPAL], followed)
    return EventStream(body, headers={"Cache-Control": "no-store"})


@router.get("/history", response_model=Page[EventView])
def history(
    server: Srv,
    study: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: str | None = None,
    kind: Annotated[list[str] | None, Query(max_length=20, description="only these, e.g. study.paused")] = None,
) -> Page[EventView]:
    """List what happened to a study and its trials, the newest first, and who asked for it."""
    before = cursor_number(cursor)
    with server.database.read() as session:
        place = studies.place(session, study)
        found = events.latest(session, study_id=place.id, before=before, limit=limit + 1, kinds=kind or ())
    more = str(found[limit - 1].revision) if len(found) > limit else None
    return Page(items=[event_view(record) for record in found[:limit]], next_cursor=more)


def _revision(last_event_id: str | None) -> int | None:
    if last_event_id is None or last_event_id == "":
        return None
    if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 19):
        raise InvalidInput([Fault("Last-Event-ID", f"{last_event_id!r} given; a revision number is required")])
    return int(last_event_id)


async def _follow(server: Server, streams: list[object], place: Place, after: int) -> AsyncIterator[str]:
    token = object()
    streams.append(token)
    followed = server.broadcasts.follow(place.id, place.revision, after)
    try:
        async for text in followed:
            yield text
    finally:
        streams.remove(token)
        await followed.aclose()


async def _while_allowed(server: Server, principal: Principal, parts: AsyncIterator[str]) -> AsyncIterator[str]:
    """Pass a stream on until the token of who opened it is revoked or has expired."""
    checked_at = time.monotonic()
    try:
        async for text in parts:
            if time.monotonic() - checked_at >= server.waits.recheck_s:
                checked_at = time.monotonic()
                if not await server.principals.still(principal):
                    return
            yield text
    finally:
        await parts.aclose()  # type: ignore[attr-defined]
