"""Live events.

GET /studies/{study}/events    server-sent events

`change` carries one change of state, with its revision as id (Last-Event-ID resumes after it); `advanced` means that
curves grew, at most once a second; `closing` means that the server is shutting down. A stream outlasts an outage of the
database.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from starlette.requests import Request

from api.hub import wait
from api.state import Server, Srv
from storage import events, studies
from storage.database import DatabaseUnusable
from storage.events import EventRecord
from tuner.errors import Conflict, Fault, InvalidInput, NotFound
from tuner.wire.views import EventView

router = APIRouter(prefix="/studies/{study}", tags=["events"])
KEEPALIVE_S = 15.0
COALESCE_S = 1.0


@router.get("/events", response_class=StreamingResponse)
async def stream(
    server: Srv, request: Request, study: str, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Follow a study."""
    after = _revision(last_event_id)
    study_id, revision = await asyncio.to_thread(_find, server, study)
    streams: list[object] = request.app.state.streams
    if len(streams) >= server.settings.max_event_streams:
        raise Conflict(
            f"{len(streams)} event streams are open; at most {server.settings.max_event_streams} are allowed"
        )
    body = _follow(server, streams, study_id, revision if after is None else after)
    return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _revision(last_event_id: str | None) -> int | None:
    if last_event_id is None or last_event_id == "":
        return None
    if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 19):
        raise InvalidInput([Fault("Last-Event-ID", f"{last_event_id!r} given; a revision number is required")])
    return int(last_event_id)


def _find(server: Server, key: str) -> tuple[int, int]:
    with server.database.read() as session:
        study = studies.get(session, key)
        return study.id, study.revision


def _look(server: Server, study_id: int, revision: int) -> tuple[list[EventRecord], int] | None:
    """Return the events after a revision and the examples done so far; None when the study is gone."""
    with server.database.read() as session:
        try:
            studies.get(session, study_id)
        except NotFound:
            return None
        progress = studies.progress(session, study_ids=[study_id]).get(study_id)
        found = events.after(session, study_id=study_id, revision=revision)
        return found, progress.examples if progress else 0


async def _follow(server: Server, streams: list[object], study_id: int, revision: int) -> AsyncIterator[str]:
    token = object()
    streams.append(token)
    examples, last_said = -1, time.monotonic()
    try:
        yield "retry: 2000\n\n"
        while not server.hub.closing.is_set():
            ticket = server.hub.changes.ticket()
            try:
                seen = await asyncio.to_thread(_look, server, study_id, revision)
            except DatabaseUnusable:  # the conductor says so; the stream goes on where it stopped
                await wait(server.hub.closing, COALESCE_S)
                continue
            if seen is None:
                yield "event: deleted\ndata: {}\n\n"
                return
            for record in seen[0]:
                revision = record.revision
                yield _change(record)
            if seen[1] != examples:
                examples, last_said = seen[1], time.monotonic()
                yield f'event: advanced\ndata: {{"examples": {examples}}}\n\n'
            elif time.monotonic() - last_said > KEEPALIVE_S:
                last_said = time.monotonic()
                yield ": still here\n\n"
            await wait(ticket, COALESCE_S)
            await wait(server.hub.closing, 0.2)  # collect a burst of changes
        yield "event: closing\ndata: {}\n\n"
    finally:
        streams.remove(token)


def _change(record: EventRecord) -> str:
    view = EventView(id=record.revision, kind=record.kind, trial=record.trial, data=record.data, at=record.at)
    return f"id: {record.revision}\nevent: change\ndata: {view.model_dump_json()}\n\n"
