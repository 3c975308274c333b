"""Wakes workers that wait for work: as many as there is work for, the one that waits longest first.

A thousand idle workers and one queued trial must not be a thousand looks at the database. Whoever is woken gets a share
of the trials that were rung for; what it cannot use (another workload, another stack, a lost connection) it passes on
to the next one. Whoever took its ticket after a ring looks after it, and needs no share of it.
"""

import asyncio
from dataclasses import dataclass


@dataclass(eq=False)
class Ticket:
    """A sync that may come to wait: taken before it looks, so that what is rung for meanwhile wakes it."""

    room: int
    """Trials that its worker can take."""
    taken_at: int
    """Rings until then."""
    wake: asyncio.Event
    ring: int = 0
    """The ring that woke it, 0 while none has."""
    share: int = 0
    """Trials of that ring that it has been woken for and has not used or passed on."""


class WorkBell:
    """`ring` may be called from any thread; everything else on the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rings = 0
        self._tickets: dict[Ticket, None] = {}  # in order of `taken_at`

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that the waiters live on."""
        self._loop = loop

    def ticket(self, room: int, wake: asyncio.Event) -> Ticket:
        """Return a ticket for a worker that can take so many trials; give it back with `leave`."""
        ticket = Ticket(room, self._rings, wake)
        if room:
            self._tickets[ticket] = None
        return ticket

    def leave(self, ticket: Ticket, used: int = 0) -> None:
        """Give a ticket back, having taken so many trials since it was woken; what is left wakes others."""
        self._tickets.pop(ticket, None)
        left, ticket.share = ticket.share - used, 0
        self._wake(left, ticket.ring)

    def ring(self, count: int | None = None) -> None:
        """Say that so many trials were queued; None: that anybody may find something now."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring, count)

    def _ring(self, count: int | None) -> None:
        self._rings += 1
        self._wake(sum(ticket.room for ticket in self._tickets) if count is None else count, self._rings)

    def _wake(self, count: int, ring: int) -> None:
        while count > 0 and self._tickets:
            ticket = next(iter(self._tickets))
            if ticket.taken_at >= ring:
                return  # this one and all behind it look after the ring
            del self._tickets[ticket]
            ticket.ring, ticket.share = ring, min(ticket.room, count)
            count -= ticket.share
            ticket.wake.set()
