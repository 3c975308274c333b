"""Workers.

POST /workers                  register a session
GET  /workers                  list sessions, the latest seen first
POST /workers/{worker}/sync    the sync protocol; waits for work when asked to
POST /workers/{worker}/drain   tell it to hand everything back and leave
POST /workers/{worker}/release give it trials again after a quarantine
"""

import time
from collections import Counter
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from api.hub import Caller
from api.requests import CheckedRoute
from api.state import Server, Srv
from api.sync.syncs import Outcome
from api.views import worker_view
from storage import attempts, identity, studies, workers
from storage.studies import ENDED
from storage.workers import WorkerRecord
from tuner.wire.message import Count
from tuner.wire.sync import Registered, Registration, SyncReply, SyncRequest
from tuner.wire.views import Page, WorkerView

router = APIRouter(prefix="/workers", tags=["workers"], route_class=CheckedRoute)
REPORTED = ("started", "restarted", "reports", "checkpointed", "logs", "finished")


@router.post("")
def register(server: Srv, registration: Registration) -> Registered:
    """Register a worker session. Asking again with the same session gives the same id."""
    with server.database.write() as session:
        study = None if registration.study is None else studies.get(session, registration.study).id
        worker_id = workers.register(
            session,
            worker_session=registration.session,
            name=registration.name,
            devices=[device.model_dump() for device in registration.devices],
            workloads=[workload.model_dump() for workload in registration.workloads],
            version=registration.version,
            now=server.database.now(session),
            study_id=study,
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


@router.post("/{worker}/drain")
def drain(server: Srv, worker: Count) -> WorkerView:
    """Tell a worker to store its trials' states, hand them back and end. Draining twice is no error."""
    return _changed(server, lambda session: workers.drain(session, worker_id=worker))


@router.post("/{worker}/release")
def release(server: Srv, worker: Count) -> WorkerView:
    """End a worker's quarantine. One that is not quarantined stays as it is."""
    return _changed(server, lambda session: workers.quarantine(session, worker_id=worker, until=None, why=None))


def _changed(server: Server, change: Callable[[Session], WorkerRecord]) -> WorkerView:
    with server.database.write() as session:
        record = change(session)
        held, now = attempts.held_counts(session).get(record.id, 0), server.database.now(session)
    server.waiting.wake(record.session)
    server.hub.ring()
    return worker_view(record, held=held, now=now, lease_s=server.settings.lease_s)


@router.post("/{worker}/sync", response_model=SyncReply)
async def sync(server: Srv, connection: Request, worker: Count, request: SyncRequest) -> Response:
    """Exchange states: the worker says what it holds and reports, the server what it wants."""
    server.metrics.syncs.inc()
    server.metrics.reports.inc(len(request.reports))
    caller = server.waiting.take(request.session)
    try:
        reply = await _exchange(server, connection, worker, request, caller)
    finally:
        server.waiting.drop(request.session, caller)
    return Response(reply.model_dump_json(), media_type="application/json")  # long, and valid by construction


async def _exchange(
    server: Server, connection: Request, worker: int, request: SyncRequest, caller: Caller
) -> SyncReply:
    """Apply a request and, where that gives the worker nothing to do, wait for work on its behalf."""
    until = time.monotonic() + max(request.wait_s, server.waits.refill_s if request.finished and request.room else 0.0)
    # What is reported is stored once; further looks are for work alone.
    rest = request.model_copy(update={name: [] for name in REPORTED})
    does, says, work = server.syncs.apply, request, server.hub.work
    ticket, woken = work.ticket(request.room, caller.wake), None
    try:
        while True:
            reply = await server.pools.syncs.run(_done, server, does, worker, says)
            if woken is not None:
                work.leave(woken, used=len(reply.assign))
            if _tells(reply) or not await _woken(server, caller, worker, until):
                return reply
            caller.wake.clear()
            woken, ticket = ticket, work.ticket(request.room, caller.wake)  # before it looks
            if await connection.is_disconnected():
                return reply  # nobody would hear of a lease
            does, says = server.syncs.look, rest
    finally:
        for left in (woken, ticket):
            if left is not None:
                work.leave(left)


def _tells(reply: SyncReply) -> bool:
    """Whether a reply gives the worker something to do, or nothing ever more."""
    return bool(reply.assign or reply.stop) or reply.leave or reply.study in ENDED


async def _woken(server: Server, caller: Caller, worker: int, until: float) -> bool:
    """Wait for work; False when it is time to reply without any."""
    left = until - time.monotonic()
    if left <= 0 or server.hub.closing.is_set():
        return False
    with server.syncs.presence.waiting(worker):
        woken = await caller.wait(left)
    return woken and not caller.superseded and not server.hub.closing.is_set()


def _done(server: Server, does: Callable[[int, SyncRequest], Outcome], worker: int, request: SyncRequest) -> SyncReply:
    """Apply a request, and tell others of what it changed."""
    outcome = does(worker, request)
    if outcome.unwanted:
        server.retention.delete(outcome.unwanted)
    server.growth.note(outcome.advanced)
    if told := {change.study_id for change in outcome.changes} | set(outcome.advanced):
        server.hub.tell(told, outcome.advanced)
    kinds = Counter(change.kind for change in outcome.changes)
    if kinds["study.pinned"]:
        server.hub.ring()  # its trials may run on other devices from now on
    elif kinds["trial.requeued"]:
        server.hub.ring(queued=kinds["trial.requeued"])
    return outcome.reply
