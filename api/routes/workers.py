"""Workers.

POST /workers                  register a session
GET  /workers                  list sessions, the latest seen first
POST /workers/{worker}/sync    the sync protocol; waits for work when asked to
"""

import time
from collections.abc import Callable

from fastapi import APIRouter, Request

from api.hub import first
from api.requests import CheckedRoute
from api.state import Server, Srv
from api.sync.syncs import Outcome
from api.views import worker_view
from storage import attempts, identity, workers
from tuner.wire.message import Count
from tuner.wire.sync import Registered, Registration, SyncReply, SyncRequest
from tuner.wire.views import Page, WorkerView

router = APIRouter(prefix="/workers", tags=["workers"], route_class=CheckedRoute)
REPORTED = ("started", "restarted", "reports", "checkpointed", "finished")


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
        name = identity.token(session)
    return Registered(worker=worker_id, lease_s=server.settings.lease_s, database=name)


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
async def sync(server: Srv, connection: Request, worker: Count, request: SyncRequest) -> SyncReply:
    """Exchange states: the worker says what it holds and reports, the server what it wants."""
    server.metrics.syncs.inc()
    server.metrics.reports.inc(len(request.reports))
    newer = server.waiting.take(request.session)
    # What is reported is stored once; further looks are for work alone.
    rest = request.model_copy(update={name: [] for name in REPORTED})
    until = time.monotonic() + max(request.wait_s, server.waits.refill_s if request.finished else 0.0)
    try:
        ticket = server.hub.work.ticket()
        reply = await server.pools.syncs.run(_done, server, server.syncs.apply, worker, request)
        while True:
            left = until - time.monotonic()
            leaves = left <= 0 or server.hub.closing.is_set() or newer.is_set()
            if reply.assign or reply.stop or leaves:
                return reply
            await first(left, ticket, newer)
            if await connection.is_disconnected():
                return reply  # nobody would hear of a lease
            ticket = server.hub.work.ticket()
            reply = await server.pools.syncs.run(_done, server, server.syncs.look, worker, rest)
    finally:
        server.waiting.drop(request.session, newer)


def _done(server: Server, does: Callable[[int, SyncRequest], Outcome], worker: int, request: SyncRequest) -> SyncReply:
    """Apply a request, and tell others of what it changed."""
    outcome = does(worker, request)
    if outcome.unwanted:
        server.retention.delete(outcome.unwanted)
    server.growth.note(outcome.advanced)
    if told := {change.study_id for change in outcome.changes} | set(outcome.advanced):
        server.hub.tell(told)
    if any(change.kind == "trial.requeued" for change in outcome.changes):
        server.hub.work.ring()
    return outcome.reply
