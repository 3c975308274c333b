"""The agent's end of a device process, with small real processes in the place of the engine."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from worker_doubles import eventually

from tuner.worker.agent.child import DeviceProcess
from tuner.worker.channel import Json

DEAF = "import time; print('{\"alive\": true}', flush=True); time.sleep(600)"
GARBLED = "import time; print('{\"alive\": tru', flush=True); time.sleep(600)"


class Child(DeviceProcess):
    """Runs some code, and keeps what it says."""

    def __init__(self, code: str) -> None:
        super().__init__("cpu", 2, 1, [])
        self._command = [sys.executable, "-S", "-c", code]
        self.messages: list[Json] = []
        self.refuses: type[Exception] | None = None

    def start(self) -> None:
        self.keep_running(self._listen)

    def _listen(self, device: DeviceProcess, message: Json) -> None:
        if self.refuses is not None and "died" not in message:
            raise self.refuses("no such field")
        self.messages.append(message)

    def of(self, kind: str) -> list[Any]:
        return [message for message in self.messages if kind in message]


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.close(0.0)


def test_a_process_that_does_not_listen_holds_nobody_up(children: list[Child]) -> None:
    """More than a pipe holds is said to it at once; it can still be ended, and its death is told."""
    child = Child(DEAF)
    children.append(child)
    child.start()
    eventually(lambda: child.of("alive"))

    def talk() -> None:
        for number in range(300):
            child.send({"assign": {"trial": number, "text": "x" * 1000}})

    talking = threading.Thread(target=talk, daemon=True)
    talking.start()
    talking.join(10.0)
    assert not talking.is_alive()
    child.kill("was ended")
    eventually(lambda: child.of("died"))
    assert child.of("died") == [{"died": -9, "why": "was ended"}]
    assert child.pid is None


@pytest.mark.parametrize(("code", "refuses"), [(GARBLED, None), (DEAF, ValueError)])
def test_a_message_that_cannot_be_taken_in_ends_the_process(
    children: list[Child], code: str, refuses: type[Exception] | None
) -> None:
    """Nobody would hear it any more: its attempts would be held for ever without a word."""
    child = Child(code)
    child.refuses = refuses
    children.append(child)
    child.start()
    eventually(lambda: child.of("died"))
    (death,) = child.of("died")
    assert death["died"] == -9 and "sent a malformed message" in death["why"]
