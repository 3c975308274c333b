"""Live events.

GET /studies/{study}/events    server-sent events

`change` carries one change of state, with its revision as id (Last-Event-ID resumes after it); `advanced` means that
curves grew, at most once a second; `closing` means that the server is shutting down, `deleted` that the study is gone.
A stream outlasts an outage of the database.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.requests import Request

from api.state import Server, Srv
from api.streams import EventStream
from storage.studies import Place
from tuner.errors import Conflict, Fault, InvalidInput

router = APIRouter(prefix="/studies/{study}", tags=["events"])


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
    body = _follow(server, streams, place, place.revision if after is None else after)
    return EventStream(body, headers={"Cache-Control": "no-store"})


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
