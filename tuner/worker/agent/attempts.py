"""The attempts that a worker's devices hold, and how each of them ends.

Invariant: an attempt is held once, from its assignment until its final message is in the outbox. One that has left
never comes back, whatever a late or repeated reply says.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tuner.wire.sync import MOST_LOG, Finish, LogTail, NoiseRow, Report, Started, Weights
from tuner.worker.agent.device import Device
from tuner.worker.agent.outbox import Key, Outbox
from tuner.worker.agent.tail import Tail
from tuner.worker.channel import Json

MOST_LEFT = 10_000
"""Attempts that have left and are remembered."""
MOST_ERROR_TEXT = 20_000
"""Characters of a traceback that are sent: its end, which names the cause."""


@dataclass
class Attempt:
    """One attempt on a device. `started` tells it from those that wait for a slot."""

    device: Device
    token: str
    stack: str
    started: bool = False
    step: int = 0
    examples: int = 0
    program: dict[str, Any] = field(default_factory=dict)
    reproducible: bool = False
    left: bool = False
    """Its slot is free, its final message still to come."""


class Attempts:
    """Attempts by (trial, attempt), in the order of arrival. Not thread-safe: its owner locks."""

    def __init__(self, outbox: Outbox, freed: Callable[[Device], None]) -> None:
        """`outbox` takes the messages about attempts; `freed` is called for ends and stops, not for deaths."""
        self._outbox = outbox
        self._freed = freed
        self._held: dict[Key, Attempt] = {}
        self._left: OrderedDict[Key, str] = OrderedDict()
        """Tokens of the latest that have left."""

    def __len__(self) -> int:
        return len(self._held)

    def tokens(self) -> dict[Key, str]:
        """Return the token of each attempt that is held."""
        return {key: attempt.token for key, attempt in self._held.items()}

    def keys(self) -> list[Key]:
        """Return the attempts' keys."""
        return list(self._held)

    def token(self, key: Key) -> str | None:
        """Return the token of an attempt that is held here, or was not long ago."""
        held = self._held.get(key)
        return self._left.get(key) if held is None else held.token

    def clear(self) -> None:
        """Forget everything, without a word to the server."""
        self._held.clear()
        self._left.clear()

    def device(self, key: Key) -> Device | None:
        """Return the device that holds an attempt, None where none does."""
        return self._held[key].device if key in self._held else None

    def on(self, device: Device) -> bool:
        """Whether a device holds attempts."""
        return any(attempt.device is device for attempt in self._held.values())

    def taken(self, device: str) -> dict[str, int]:
        """Count the attempts of a device that are in a slot or wait for one, by stack key."""
        return Counter(a.stack for a in self._held.values() if a.device.device == device and not a.left)

    def take(self, key: Key, token: str, device: Device, stack: str, *, reproducible: bool) -> None:
        """Hold a new attempt."""
        self._held[key] = Attempt(device, token, stack, reproducible=reproducible)

    def drop(self, key: Key) -> Device | None:
        """Drop an attempt without a final message; return the device that held it."""
        attempt = self._held.pop(key, None)
        if attempt is None:
            return None
        self._note_left(key, attempt.token)
        self._freed(attempt.device)
        return attempt.device

    def start(self, key: Key, program: dict[str, Any]) -> bool:
        """Note that an attempt enters the stack; return whether the server should be told at once."""
        attempt = self._held.get(key)
        if attempt is None:
            return False
        attempt.started, attempt.program = True, program
        self._outbox.start(Started(trial=key[0], attempt=key[1], program=program))
        return attempt.reproducible  # the server grants no more of its study before it knows the program

    def report(self, row: Json) -> None:
        """Pass on a row of an attempt's curve."""
        key = row["trial"], row["attempt"]
        attempt = self._held.get(key)
        if attempt is None:
            return
        attempt.step, attempt.examples = row["step"], row["examples"]
        noise = NoiseRow(**row["noise"]) if row["noise"] else None
        self._outbox.report(Report(**{**row, "noise": noise}))

    def leave_slot(self, key: Key) -> bool:
        """Note that an attempt's slot is free; return whether that was new."""
        attempt = self._held.get(key)
        if attempt is None or attempt.left:
            return False
        attempt.left = True
        self._freed(attempt.device)
        return True

    def end(self, ended: Json) -> bool:
        """Handle the device's final message on an attempt; return whether it was held."""
        key = ended["trial"], ended["attempt"]
        if key not in self._held:
            return False
        attempt = self._held[key]
        attempt.step, attempt.examples = max((attempt.step, attempt.examples), (ended["step"], ended["examples"]))
        self.leave_slot(key)
        weights = Weights(**ended["weights"]) if ended.get("weights") else None
        self.leave(key, ended["outcome"], infeasible=ended["infeasible"], error=ended["error"], weights=weights)
        return True

    def log(self, key: Key, output: Tail) -> None:
        """Have the server told the end of what an attempt printed."""
        if key in self._held and output.written:
            text = plain(output.text())[-MOST_LOG:]
            self._outbox.log(LogTail(trial=key[0], attempt=key[1], text=text, written=output.written))

    def bury(self, device: Device, status: int, why: str | None) -> None:
        """End what a dead process held. Only those that had entered the stack can have killed it, or, where none
        had, the one whose turn it was.
        """
        how = why or (f"ended with signal {-status}" if status < 0 else f"ended with status {status}")
        held = {key: attempt for key, attempt in self._held.items() if attempt.device is device}
        suspects = [key for key, attempt in held.items() if attempt.started] or list(held)[:1]
        for key in held:
            outcome = "crashed" if key in suspects else "displaced"
            if key in suspects:
                self.log(key, device.output)
            self.leave(key, outcome, error=f"the device process of {device.device} {how}")

    def leave(
        self,
        key: Key,
        outcome: Any,
        *,
        token: str = "",
        infeasible: Any = None,
        error: str | None = None,
        weights: Weights | None = None,
    ) -> None:
        """Queue the final message on an attempt; one that was not held brings its token."""
        attempt = self._held.pop(key, None)
        token = attempt.token if attempt else token
        self._note_left(key, token)
        finish = Finish(
            trial=key[0],
            attempt=key[1],
            token=token,
            outcome=outcome,
            infeasible=infeasible,
            step=attempt.step if attempt else 0,
            examples=attempt.examples if attempt else 0,
            error=plain(error)[-MOST_ERROR_TEXT:] if error else None,
            program=attempt.program if attempt else {},
            weights=weights,
        )
        self._outbox.finish(finish)

    def _note_left(self, key: Key, token: str) -> None:
        """Remember an attempt that has left, as long as a late reply may name it."""
        self._left[key] = token
        while len(self._left) > MOST_LEFT:
            self._left.popitem(last=False)


def plain(text: str) -> str:
    """Replace what UTF-8 cannot encode, e.g. file names in another encoding within a traceback."""
    return text.encode("utf-8", "replace").decode("utf-8")
