"""News of studies for event streams: read from the database once per study, however many follow it.

- A broadcast lives while somebody follows its study. It sleeps until the study's bell rings (`Hub.tell`); only while
  other servers are not heard it also looks once a second.
- Each follower has a queue of its own, of bounded length: who reads too slowly is dropped, and may come back with the
  last event that it saw.
- A follower gets every change after the one that it names, in order and once: those before the broadcast's own place
  are read for it alone.

Everything here runs on the event loop; queries run in the pool of streams.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from api.growth import Growth
from api.hub import Hub, wait
from api.pools import Pool
from storage import events, studies
from storage.database import Database, DatabaseUnusable
from storage.events import EventRecord
from tuner.errors import NotFound
from tuner.wire.views import EventView

KEEPALIVE_S = 15.0
ADVANCED_S = 1.0
"""Curves have grown: said at most so often."""
BURST_S = 0.2
"""What comes so close together is read in one query."""
OUTAGE_S = 1.0
ELSEWHERE_S = 1.0
"""How often to look for what other servers changed, while they are not heard."""
PART = 500
"""Events read at a time."""
MOST_BEHIND = 200
"""Pieces of news that wait for a slow follower."""

Piece = tuple[int, str]
"""A revision, 0 if the news is no change, and what to send. An empty text is the end."""
END: Piece = 0, ""


class Broadcasts:
    """The broadcasts of one server."""

    def __init__(self, database: Database, hub: Hub, growth: Growth, pool: Pool) -> None:
        self.database = database
        self.hub = hub
        self.growth = growth
        self.pool = pool
        self._running: dict[int, Broadcast] = {}

    async def follow(self, study_id: int, revision: int, after: int) -> AsyncGenerator[str]:
        """Yield what to send to one follower: changes after `after`. `revision` is where the study was just now."""
        broadcast = self._running.get(study_id)
        if broadcast is None:
            broadcast = self._running[study_id] = Broadcast(self, study_id, revision)
        queue, before = broadcast.join()
        try:
            yield "retry: 2000\n\n"
            while after < before and not self.hub.closing.is_set():
                missed = await self._events(study_id, after)
                yield "".join(_change(record) for record in missed)
                after = missed[-1].revision if missed else before
            while True:
                try:
                    async with asyncio.timeout(KEEPALIVE_S):  # wait_for would make a task each time
                        pieces = await queue.get()
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if text := "".join(text for number, text in pieces if not 0 < number <= after):
                    yield text
                if pieces[-1] == END:
                    return
        finally:
            if broadcast.leave(queue):
                self._running.pop(study_id, None)

    async def _events(self, study_id: int, after: int) -> list[EventRecord]:
        while True:
            try:
                return await self.pool.run(self._read, study_id, after)
            except DatabaseUnusable:  # the conductor says so; the stream goes on where it stopped
                await wait(self.hub.closing, OUTAGE_S)
                if self.hub.closing.is_set():
                    return []

    def _read(self, study_id: int, after: int) -> list[EventRecord]:
        with self.database.read() as session:
            return events.after(session, study_id=study_id, revision=after, limit=PART)


class Broadcast:
    """Looks for news of one study as long as it has followers."""

    def __init__(self, server: Broadcasts, study_id: int, revision: int) -> None:
        self._server = server
        self._study_id = study_id
        self._revision = revision
        self._live = True
        self._grown = server.growth.count(study_id)
        self._said_at = -ADVANCED_S
        self._queues: list[asyncio.Queue[Sequence[Piece]]] = []
        self._bell = server.hub.follow(study_id)
        self._bell.set()  # something may have happened since `revision` was read
        self._task = asyncio.create_task(self._run())

    def join(self) -> tuple[asyncio.Queue[Sequence[Piece]], int]:
        """Return a new follower's queue, and the last revision that will not come through it."""
        queue: asyncio.Queue[Sequence[Piece]] = asyncio.Queue(MOST_BEHIND + 1)  # one more for the end
        self._queues.append(queue)
        if self._task.done():
            queue.put_nowait([END])
        return queue, self._revision

    def leave(self, queue: asyncio.Queue[Sequence[Piece]]) -> bool:
        """Stop following; return whether nobody is left, and the broadcast has ended."""
        if queue in self._queues:
            self._queues.remove(queue)
        if self._queues:
            return False
        self._task.cancel()
        self._server.hub.unfollow(self._study_id)
        return True

    async def _run(self) -> None:
        try:
            await self._follow()
        finally:
            self._tell([END])

    async def _follow(self) -> None:
        closing = self._server.hub.closing
        while not closing.is_set():
            await self._sleep()
            try:
                await self._look()
            except DatabaseUnusable:
                self._bell.set()
                await wait(closing, OUTAGE_S)
            except NotFound:
                self._tell([(0, "event: deleted\ndata: {}\n\n")])
                return
            await wait(closing, BURST_S)
        self._tell([(0, "event: closing\ndata: {}\n\n")])

    async def _sleep(self) -> None:
        """Wait until the bell rings, or until it may be said that curves grew."""
        until_s = None if self._server.hub.hears_all else ELSEWHERE_S
        if self._has_grown():
            until_s = max(0.0, self._said_at + ADVANCED_S - time.monotonic())
        try:
            await asyncio.wait_for(self._bell.wait(), until_s)
        except TimeoutError:
            pass
        self._bell.clear()

    async def _look(self) -> None:
        while True:
            found = await self._server.pool.run(self._read)
            self._tell([(record.revision, _change(record)) for record in found])
            self._revision = found[-1].revision if found else self._revision
            if len(found) < PART:
                break
        if self._has_grown() and time.monotonic() - self._said_at >= ADVANCED_S:
            self._said_at, self._grown = time.monotonic(), self._count()
            self._tell([(0, "event: advanced\ndata: {}\n\n")])

    def _read(self) -> list[EventRecord]:
        with self._server.database.read() as session:
            place = studies.place(session, self._study_id)
            self._live = not place.ended
            if place.revision <= self._revision:
                return []
            return events.after(session, study_id=self._study_id, revision=self._revision, limit=PART)

    def _has_grown(self) -> bool:
        return self._count() != self._grown

    def _count(self) -> int:
        return self._server.growth.count(self._study_id, live=self._live)

    def _tell(self, pieces: Sequence[Piece]) -> None:
        if not pieces:
            return
        for queue in list(self._queues):
            if queue.qsize() < MOST_BEHIND:
                queue.put_nowait(pieces)
            else:  # its follower does not read: it hears no more, and comes back
                self._queues.remove(queue)
                queue.put_nowait([END])


def event_view(record: EventRecord) -> EventView:
    """Show a change of state."""
    return EventView(
        id=record.revision, kind=record.kind, trial=record.trial, data=record.data, at=record.at, by=record.by
    )


def _change(record: EventRecord) -> str:
    return f"id: {record.revision}\nevent: change\ndata: {event_view(record).model_dump_json()}\n\n"
