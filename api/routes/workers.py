"""Workers.

POST /workers                  register a session
GET  /workers                  list sessions, the latest seen first
POST /workers/{worker}/sync    the sync protocol; waits for work when asked to
"""

import asyncio
import time

from fastapi import APIRouter

from api.hub import wait
from api.state import Server, Srv
from api.views import worker_view
from storage import attempts, workers
from tuner.wire.message import Count
from tuner.wire.sync import Registered, Registration, SyncReply, SyncRequest
from tuner.wire.views import Page, WorkerView

router = APIRouter(prefix="/workers", tags=["workers"])


@router.post("")
def register(server: Srv, registration: Registration) -> Registered:
    """Register a worker session. Asking again with the same session gives the same id."""
    with server.database.write() as session:
        worker_id = workers.register(
            session,
            worker_session=registration.session,
            name=registration.name,
            devices=[device.model_dump() for device in registration.devices],
            workloads=[workload.model_dump() for workload in registration.workloads],
            version=registration.version,
            now=server.database.now(session),
        )
    return Registered(worker=worker_id, lease_s=server.settings.lease_s)


@router.get("")
def list_workers(server: Srv) -> Page[WorkerView]:
    """List worker sessions."""
    with server.database.read() as session:
        held = attempts.held_counts(session)
        now = server.database.now(session)
        found = workers.recent(session)
    lease_s = server.settings.lease_s
    return Page(items=[worker_view(w, held=held.get(w.id, 0), now=now, lease_s=lease_s) for w in found])


@router.post("/{worker}/sync")
async def sync(server: Srv, worker: Count, request: SyncRequest) -> SyncReply:
    """Tell the server what is, and hear what is wanted."""
    server.metrics.syncs.inc()
    server.metrics.reports.inc(len(request.reports))
    newer = server.waiting.take(request.session)
    wait_s = max(request.wait_s, server.waits.refill_s if request.finished else 0.0)
    until, again = time.monotonic() + wait_s, False
    try:
        while True:
            ticket = server.hub.work.ticket()
            reply = await asyncio.to_thread(_apply, server, worker, request, again)
            # What was reported is stored by now; the next looks are for work alone.
            request, again = (
                request.model_copy(update={"restarted": [], "reports": [], "checkpointed": [], "finished": []}),
                True,
            )
            left = until - time.monotonic()
            if reply.assign or reply.stop or left <= 0 or server.hub.closing.is_set() or newer.is_set():
                return reply
            await _first(ticket, newer, left)
    finally:
        server.waiting.drop(request.session, newer)


async def _first(ticket: asyncio.Event, newer: asyncio.Event, timeout_s: float) -> None:
    """Wait for work or for a newer sync of the session, whichever comes first."""
    waits = [asyncio.ensure_future(wait(event, timeout_s)) for event in (ticket, newer)]
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


def _apply(server: Server, worker: int, request: SyncRequest, again: bool) -> SyncReply:
    with server.database.write() as session:
        now = server.database.now(session)
        outcome = server.leasing.sync(session, worker_id=worker, request=request, now=now, again=again)
    if outcome.unwanted:
        server.retention.delete(outcome.unwanted)
    if outcome.changes or outcome.advanced:
        server.hub.changes.ring()
    if any(change.kind == "trial.requeued" for change in outcome.changes):
        server.hub.work.ring()
    return outcome.reply
