"""What the agent needs of a device: it takes messages, and reports what becomes of the trials that it was given."""

from collections.abc import Callable
from typing import Protocol

from tuner.worker.agent.tail import Tail
from tuner.worker.channel import Json


class Device(Protocol):
    """Something that runs trials: a process of the engine (`child.py`), or a place for scripts (`worker/scripts`).

    Its messages are passed to `listen` in a thread of its own.
    """

    device: str
    """The name that the worker uses for it."""
    width: int | None
    """Slots of its stacks, if the user set them."""
    heard: int
    """Messages received so far."""
    output: Tail
    """The end of what it printed."""

    def keep_running(self, listen: "Callable[[Device, Json], None]") -> None:
        """Start it, unless it runs, is still in the pause after its death, or was closed."""

    def send(self, message: Json) -> None:
        """Send a message without waiting."""

    def kill(self, why: str) -> None:
        """End at once what it runs; its death is reported with the reason, and it is started again."""

    def hang_up(self) -> None:
        """Let it end after its remaining messages. It is not started again."""

    def close(self, patience_s: float) -> None:
        """Let it end, kill it if it does not in time, and hear its remaining messages."""
