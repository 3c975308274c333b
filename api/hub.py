"""Wake-ups: nobody polls the database for news. Where several servers share it, each also tells the others.

A waiter takes a ticket *before* it looks, and waits on it only if it found nothing: what happens in between wakes it.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

from api.news import ANYBODY, Outbox
from api.work import WorkBell


class Bell:
    """Wakes everyone who holds the current ticket. `ring` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()
        self._ringing = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that the waiters live on."""
        self._loop = loop

    def ticket(self) -> asyncio.Event:
        """Return what the next `ring` will set."""
        return self._event

    def ring(self) -> None:
        """Wake every waiter."""
        if self._loop is not None and not self._loop.is_closed() and not self._ringing:
            self._ringing = True
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._ringing = False
        rung, self._event = self._event, asyncio.Event()
        rung.set()


async def wait(ticket: asyncio.Event, timeout_s: float) -> bool:
    """Wait until the ticket's bell rings; False when the time is up first."""
    try:
        await asyncio.wait_for(ticket.wait(), max(timeout_s, 0.0))
    except TimeoutError:
        return False
    return True


async def first(timeout_s: float, *events: asyncio.Event) -> None:
    """Wait until one of the events is set, or the time is up."""
    waits = [asyncio.ensure_future(wait(event, timeout_s)) for event in events]
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


class Caller:
    """A worker's sync under way, which may wait for work."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        """Set when there may be something to do."""
        self.superseded = False
        """Whether a newer sync of its session came."""

    async def wait(self, timeout_s: float) -> bool:
        """Wait until woken; False when the time is up first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wake.wait()
        except TimeoutError:
            return False
        return True


class Waiting:
    """The sync that waits for work in each worker session; a newer one makes the older return empty."""

    def __init__(self) -> None:
        self._current: dict[str, Caller] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that the waiters live on."""
        self._loop = loop

    def take(self, session: str) -> Caller:
        """Become the session's current sync."""
        older = self._current.get(session)
        if older is not None:
            older.superseded = True
            older.wake.set()
        newer = self._current[session] = Caller()
        return newer

    def wake(self, session: str) -> None:
        """Let the sync that waits for a session look again. From any thread."""
        caller = self._current.get(session)
        if caller is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(caller.wake.set)

    def drop(self, session: str, caller: Caller) -> None:
        """Stop waiting."""
        if self._current.get(session) is caller:
            del self._current[session]


class Hub:
    """`work`: trials were queued. `changes`: something changed in a study. `closing`: the server shuts down."""

    def __init__(self, others: Outbox | None = None) -> None:
        """`others`: where what other servers should hear of goes; None if there are none."""
        self.work = WorkBell()
        self.changes = Bell()
        self.closing = asyncio.Event()
        self.hears_all = others is None
        """Whether what other servers change is told here; if not, who waits must look now and then."""
        self._others = others
        self._loop: asyncio.AbstractEventLoop | None = None
        self._followed: dict[int, asyncio.Event] = {}

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that the waiters live on."""
        self._loop = loop
        self.work.bind(loop)
        self.changes.bind(loop)

    def follow(self, study_id: int) -> asyncio.Event:
        """Return what is set whenever something happens in a study. One follower each, which clears it. On the loop."""
        return self._followed.setdefault(study_id, asyncio.Event())

    def unfollow(self, study_id: int) -> None:
        """Stop telling of a study. On the loop."""
        self._followed.pop(study_id, None)

    def tell(self, study_ids: Collection[int], grown: Mapping[int, int] | None = None) -> None:
        """Say that something happened in these studies: a change, or curves grew. From any thread.

        `grown`: by study of which something was reported, examples.
        """
        self.hear(study_ids)
        if self._others is not None and (study_ids or grown):
            self._others.say(studies=study_ids, grown=grown)

    def hear(self, study_ids: Iterable[int], *, drives: bool = True) -> None:
        """Wake who waits here for news of these studies; `drives`: this server may have to act on one of them."""
        if drives:
            self.changes.ring()
        self._soon(self._tell, list(study_ids))

    def ring(self, *study_ids: int, queued: int | None = None) -> None:
        """Say that something happened in these studies, and that there is work: so many trials, or nobody knows.

        From any thread.
        """
        self.tell(study_ids)
        self.work.ring(queued)
        if self._others is not None:
            self._others.say(work=ANYBODY if queued is None else queued)

    def anything(self) -> None:
        """Wake everyone here: anything may have happened. From any thread."""
        self.changes.ring()
        self.work.ring()
        self._soon(self._tell, None)

    def close(self) -> None:
        """Wake everyone here for the last time. Call on the event loop."""
        self.closing.set()
        self.anything()

    def _soon(self, act: Callable[[list[int] | None], None], study_ids: list[int] | None) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(act, study_ids)

    def _tell(self, study_ids: list[int] | None) -> None:
        for study_id in self._followed if study_ids is None else study_ids:
            if study_id in self._followed:
                self._followed[study_id].set()
