"""Applies workers' requests: each is one `Turn` in one transaction."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from api.plans import Plans
from api.sync.presence import Presence
from api.sync.turn import NEXT_SYNC_S, Turn
from storage import workers
from storage.database import Database
from storage.events import Change
from storage.workers import Glance, WorkerRecord
from tuner.wire.sync import SyncReply, SyncRequest


@dataclass(frozen=True)
class Outcome:
    """What a sync did: the reply, and what others must be told of."""

    reply: SyncReply
    changes: list[Change] = field(default_factory=list)
    advanced: dict[int, int] = field(default_factory=dict)
    """By study of which something was reported: the examples that its trials went on by."""
    unwanted: list[str] = field(default_factory=list)
    """Files of the checkpoint store that nobody will read."""


class Syncs:
    """Applies the syncs of workers. Methods raise `NotFound` when the worker must register again."""

    def __init__(self, database: Database, plans: Plans, lease_s: float) -> None:
        self.presence = Presence()
        self._database = database
        self._plans = plans
        self._lease_s = lease_s

    def apply(self, worker_id: int, request: SyncRequest) -> Outcome:
        """Store what a request reports, and grant leases if no later request of the session was seen.

        A request that says nothing, of a worker without leases, writes only if there is work.
        """
        if not request.says_something:
            with self._database.read() as session:
                seen = workers.glance(session, worker_id=worker_id, worker_session=request.session)
            newer = self.presence.note(worker_id, request.seq) and request.seq > seen.worker.seq
            if not seen.leased:
                return self._take(worker_id, request) if newer and seen.queued else self._nothing(seen)
        with self._database.write() as session:
            now = self._database.now(session)
            worker, unseen = self._seen(session, worker_id, request, now)
            if request.says_something:
                newer = self.presence.note(worker_id, request.seq) and unseen
            return self._write(session, worker, request, now=now, grants=newer)

    def look(self, worker_id: int, request: SyncRequest) -> Outcome:
        """Look again on behalf of a request that was applied and waits for work. Writes only if there is some."""
        with self._database.read() as session:
            seen = workers.glance(session, worker_id=worker_id, worker_session=request.session)
        if self._is_last(seen.worker, request) and (seen.leased or seen.queued):
            return self._take(worker_id, request)
        return self._nothing(seen)

    def store_presence(self) -> None:
        """Store which workers were here since this was called last; call this several times per lease."""
        here = self.presence.unstored()
        if here:
            with self._database.write() as session:
                workers.here(session, last=here, now=self._database.now(session))

    def _take(self, worker_id: int, request: SyncRequest) -> Outcome:
        """Reply with what was leased before or, if there is work and no later request was seen, with new leases."""
        with self._database.read() as session:
            worker = workers.get(session, worker_id=worker_id, worker_session=request.session)
            turn = self._turn(session, worker, request, self._database.now(session), lock=False)
            reply = turn.reply()
            waiting = not reply.assign and not reply.stop and turn.promising()
        if not waiting:
            return Outcome(reply)
        with self._database.write() as session:
            now = self._database.now(session)
            worker, _ = self._seen(session, worker_id, request, now)
            return self._write(session, worker, request, now=now, grants=self._is_last(worker, request))

    def _seen(self, session: Session, worker_id: int, request: SyncRequest, now: datetime) -> tuple[WorkerRecord, bool]:
        return workers.seen(session, worker_id=worker_id, worker_session=request.session, seq=request.seq, now=now)

    def _is_last(self, worker: WorkerRecord, request: SyncRequest) -> bool:
        """Whether no later request of the session was seen: that one gets the work."""
        return max(worker.seq, self.presence.last(worker.id)) <= request.seq

    def _nothing(self, seen: Glance) -> Outcome:
        leave = seen.worker.draining
        return Outcome(SyncReply(leave=leave, lease_s=self._lease_s, next_sync_s=NEXT_SYNC_S, study=seen.study))

    def _write(
        self, session: Session, worker: WorkerRecord, request: SyncRequest, *, now: datetime, grants: bool
    ) -> Outcome:
        turn = self._turn(session, worker, request, now, lock=True)
        turn.apply()
        if grants:
            turn.grant()
        reply = turn.reply()
        turn.record()
        return Outcome(reply, turn.changes, turn.advanced, turn.unwanted)

    def _turn(self, session: Session, worker: WorkerRecord, request: SyncRequest, now: datetime, *, lock: bool) -> Turn:
        return Turn(session, self._plans, worker, request, now=now, lease_s=self._lease_s, lock=lock)
