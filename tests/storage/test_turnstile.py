"""Writers take turns in the order in which they came."""

import threading
from collections.abc import Callable

from storage.turnstile import Turnstile


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_until_queued(turnstile: Turnstile, count: int) -> None:
    while len(turnstile._waiting) < count:
        threading.Event().wait(0.001)


def test_who_waits_longest_is_next_even_if_the_holder_asks_again() -> None:
    turnstile, order = Turnstile(), list[str]()
    assert turnstile.acquire(0.0)

    def take(name: str) -> None:
        assert turnstile.acquire(20.0)
        order.append(name)
        turnstile.release()

    threads = []
    for place, name in enumerate(("first", "second", "third"), 1):
        threads.append(started(lambda name=name: take(name)))  # type: ignore[misc]
        wait_until_queued(turnstile, place)
    turnstile.release()
    take("holder")
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "third", "holder"]
    assert turnstile.acquire(0.0)


def test_who_gives_up_is_passed_over() -> None:
    turnstile = Turnstile()
    assert turnstile.acquire(0.0)
    assert not turnstile.acquire(0.001)
    turnstile.release()
    assert turnstile.acquire(0.0)


def test_there_is_one_holder_at_a_time_whoever_gives_up() -> None:
    turnstile, held, count = Turnstile(), 0, 0

    def work() -> None:
        nonlocal held, count
        for timeout_s in (0.0, 1e-4, 5.0) * 50:
            if turnstile.acquire(timeout_s):
                held += 1
                assert held == 1
                count += 1
                held -= 1
                turnstile.release()

    threads = [started(work) for _ in range(6)]
    for thread in threads:
        thread.join()
    assert count >= 6 * 50 and turnstile.acquire(0.0)
