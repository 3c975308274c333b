"""Running the server: signals that end it, and those that must not."""

import asyncio
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.serve import serve
from api.settings import Settings


@pytest.fixture(autouse=True)
def no_other_loop() -> Iterator[None]:
    """Playwright, where an earlier test of this process used it, leaves an event loop marked as running."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(running)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def served(tmp_path: Path, *signals: signal.Signals) -> tuple[int, list[int]]:
    """Serve, answer one request after each of the signals but the last; return the exit code and the answers."""
    answers: list[int] = []

    def ready(url: str) -> None:
        def raise_them() -> None:
            for number in signals:
                os.kill(os.getpid(), number)
                if number != signals[-1]:
                    with urllib.request.urlopen(f"{url}/readyz", timeout=20) as answer:
                        answers.append(answer.status)

        threading.Thread(target=raise_them).start()

    settings = Settings(data_dir=tmp_path, port=0, local_workers=False)
    return serve(settings, ready), answers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server_in_order(tmp_path: Path, number: signal.Signals) -> None:
    assert served(tmp_path, number) == (0, [])


def test_a_closed_terminal_does_not_end_a_server_that_nohup_started(tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert served(tmp_path, signal.SIGHUP, signal.SIGTERM) == (0, [200])
