"""Work wakes as many waiting workers as it needs, the one that waits longest first, and never none."""

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from loops import run_async

from api.work import Ticket, WorkBell


def on_loop(test: Callable[[WorkBell], None]) -> None:
    """Run a test with a bell on an event loop."""

    async def run() -> None:
        bell = WorkBell()
        bell.bind(asyncio.get_running_loop())
        test(bell)

    run_async(run())


def waiting(bell: WorkBell, *rooms: int) -> list[Ticket]:
    return [bell.ticket(room, asyncio.Event()) for room in rooms]


def woken(tickets: list[Ticket]) -> list[bool]:
    return [ticket.wake.is_set() for ticket in tickets]


def test_one_trial_wakes_one_worker_the_one_that_waits_longest() -> None:
    def test(bell: WorkBell) -> None:
        tickets = waiting(bell, 4, 4, 4)
        bell._ring(1)
        assert woken(tickets) == [True, False, False]
        bell._ring(6)
        assert woken(tickets) == [True, True, True] and [t.share for t in tickets] == [1, 4, 2]

    on_loop(test)


def test_what_a_worker_cannot_use_wakes_the_next_once() -> None:
    def test(bell: WorkBell) -> None:
        first, second, third = waiting(bell, 2, 2, 2)
        bell._ring(2)
        again = bell.ticket(2, asyncio.Event())  # taken before it looks
        bell.leave(first, used=0)
        assert woken([first, second, third, again]) == [True, True, False, False]
        bell.leave(second, used=1)
        assert woken([third, again]) == [True, False] and third.share == 1
        bell.leave(third, used=0)
        assert not again.wake.is_set()  # it has looked since the ring

    on_loop(test)


def test_a_worker_without_room_is_not_woken_and_one_that_left_is_not_counted() -> None:
    def test(bell: WorkBell) -> None:
        full, gone, free = waiting(bell, 0, 2, 2)
        bell.leave(gone)
        bell._ring(1)
        assert woken([full, gone, free]) == [False, False, True]

    on_loop(test)


def test_a_ring_that_anybody_may_use_wakes_everybody() -> None:
    def test(bell: WorkBell) -> None:
        tickets = waiting(bell, 1, 9, 3)
        bell._ring(None)
        assert woken(tickets) == [True, True, True]

    on_loop(test)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=8),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_no_trial_is_left_while_a_worker_waits_that_could_take_it(
    crew: list[tuple[int, bool]], rings: list[int]
) -> None:
    """Workers that can or cannot take what is queued, and any number of rings: as the routes use the bell."""

    def test(bell: WorkBell) -> None:
        rooms = {bell.ticket(room, asyncio.Event()): (room, able) for room, able in crew}
        queued = 0
        for count in rings:
            queued += count
            bell._ring(count)
            while any(ticket.wake.is_set() for ticket in rooms):
                ticket = next(ticket for ticket in rooms if ticket.wake.is_set())
                room, able = rooms.pop(ticket)
                again = bell.ticket(room, asyncio.Event())
                taken = min(room, queued) if able else 0
                queued -= taken
                bell.leave(ticket, used=taken)
                if taken:
                    bell.leave(again)  # it replies
                else:
                    rooms[again] = (room, able)
            assert queued == 0 or not any(able for _, able in rooms.values())

    on_loop(test)
