"""What a worker holds: attempts on its devices, and what is still to be told of them. Safe to share between threads.

Invariant: an attempt is here once, from its assignment until its last word is acknowledged; what has left never comes
back, whatever a late or repeated reply says.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.store import SHARED
from tuner.wire.sync import (
    Assignment,
    Capacity,
    Checkpointed,
    DeviceInfo,
    Finish,
    Held,
    NoiseRow,
    Report,
    Restarted,
    Stop,
    Weights,
    WorkloadInfo,
)
from tuner.worker.channel import Json
from tuner.worker.child import DeviceProcess
from tuner.worker.outbox import Key, Outbox

MOST_ERROR_TEXT = 20_000
"""Characters of a traceback that travel: its end, where the cause stands."""

MOST_REASON = 1000


@dataclass
class Attempt:
    """One attempt on a device. `started` tells it from those that wait for a slot."""

    device: DeviceProcess
    started: bool = False
    step: int = 0
    examples: int = 0
    program: dict[str, Any] = field(default_factory=dict)


@dataclass
class Board:
    """What a device process said of itself since it started."""

    width: int
    ready: bool = False
    description: str = ""
    checkpoints: bool = False
    scope: str = SHARED
    workloads: list[WorkloadInfo] = field(default_factory=list)
    stack: str | None = None


class Holdings:
    """Attempts and messages of all devices of a worker."""

    def __init__(self, devices: Sequence[DeviceProcess]) -> None:
        self.devices = list(devices)
        self.outbox = Outbox()
        self.lock = threading.RLock()
        self._attempts: dict[Key, Attempt] = {}
        self._left: set[Key] = set()
        self._draining = False
        self._boards = {device.device: Board(device.width) for device in devices}

    @property
    def ready(self) -> bool:
        """Whether every device has said what it can do."""
        with self.lock:
            return all(board.ready for board in self._boards.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nothing is to be told."""
        with self.lock:
            return not self._attempts and not len(self.outbox)

    def device_infos(self) -> list[DeviceInfo]:
        """Describe the devices, for registration."""
        with self.lock:
            return [
                DeviceInfo(
                    device=name,
                    description=board.description,
                    width=board.width,
                    checkpoints=board.checkpoints,
                    scope=board.scope,
                )
                for name, board in self._boards.items()
            ]

    def workloads(self) -> list[WorkloadInfo]:
        """Name what every device of this worker can run."""
        with self.lock:
            return next(iter(self._boards.values())).workloads

    def busy(self, device: DeviceProcess) -> bool:
        """Whether a device holds attempts."""
        with self.lock:
            return any(attempt.device is device for attempt in self._attempts.values())

    def held(self, told: Sequence[Finish]) -> list[Held]:
        """Name the attempts whose last word is not among those `told` in the same request."""
        with self.lock:
            saying = {(finish.trial, finish.attempt) for finish in told}
            keys = [*self._attempts, *(key for key in self.outbox.unsaid() if key not in saying)]
            return [Held(trial=trial, attempt=attempt) for trial, attempt in keys]

    def capacity(self) -> list[Capacity]:
        """Say what each device can take: its free slots and a few assignments ahead, so that no slot waits for us."""
        with self.lock:
            result = []
            for name, board in self._boards.items():
                taken = sum(attempt.device.device == name for attempt in self._attempts.values())
                most = board.width + max(1, board.width // 8) if board.ready else 0
                result.append(Capacity(device=name, stack=board.stack, free=max(0, most - taken)))
            return result

    def take(self, assignment: Assignment) -> None:
        """Start an assignment, unless it is or was here."""
        key = assignment.trial, assignment.attempt
        with self.lock:
            if key in self._attempts or key in self._left:
                return
            if self._draining:
                self._leave(key, "drained")
                return
            device = next((d for d in self.devices if d.device == assignment.device), None)
            if device is None or not self._boards[device.device].ready:
                self._leave(key, "displaced", error=f"device {assignment.device} is not running")
                return
            self._attempts[key] = Attempt(device)
            device.send({"assign": assignment.model_dump(mode="python")})

    def kept(self, told: Sequence[Checkpointed]) -> None:
        """Tell the devices which checkpoints the server knows of now."""
        with self.lock:
            for checkpointed in told:
                key = checkpointed.trial, checkpointed.attempt
                if key in self._attempts:
                    self._attempts[key].device.send({"kept": list(key)})

    def drop(self, stop: Stop) -> bool:
        """Stop an attempt that the server wants no more; say whether it was held. A last word already said stands."""
        key = stop.trial, stop.attempt
        with self.lock:
            attempt = self._attempts.pop(key, None)
            if attempt is None:
                return False
            self._left.add(key)
            attempt.device.send({"stop": list(key)})
            return True

    def listen(self, device: DeviceProcess, message: Json) -> bool:
        """Take in a message of a device process; say whether the server should hear of it at once."""
        with self.lock:
            board = self._boards[device.device]
            if "row" in message:
                self._report(message["row"])
                return False
            if "started" in message:
                attempt = self._attempts.get(_key(message["started"]))
                if attempt is not None:
                    attempt.started, attempt.program = True, message["program"]
                return False
            if "ended" in message:
                return self._ended(message["ended"])
            if "checkpointed" in message:
                self.outbox.checkpoint(Checkpointed(**message["checkpointed"]))
                return False
            if "restarted" in message:
                self.outbox.restart(
                    Restarted(**{**message["restarted"], "why": message["restarted"]["why"][:MOST_REASON]})
                )
                return False
            if "alive" in message:
                return False
            if "hello" in message:
                hello = message["hello"]
                board.ready, board.description = True, hello["description"]
                board.checkpoints, board.scope = hello.get("checkpoints", False), hello.get("scope", SHARED)
                board.workloads = [WorkloadInfo(**item) for item in hello["workloads"]]
            elif "died" in message:
                self._boards[device.device] = replace(board, width=device.width, ready=False, stack=None)
                self._bury(device, message["died"], message.get("why"))
            else:
                board.stack = message.get("stack", board.stack)
                board.width = message.get("width", board.width)
            return "stack" not in message

    def drain(self) -> None:
        """Hand every attempt back, and whatever may still come."""
        with self.lock:
            self._draining = True
            for key in list(self._attempts):
                self._leave(key, "drained")

    def _report(self, row: Json) -> None:
        key = row["trial"], row["attempt"]
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        attempt.step, attempt.examples = row["step"], row["examples"]
        noise = NoiseRow(**row["noise"]) if row["noise"] else None
        self.outbox.report(Report(**{**row, "noise": noise}))

    def _ended(self, ended: Json) -> bool:
        key = ended["trial"], ended["attempt"]
        if key not in self._attempts:
            return False
        attempt = self._attempts[key]
        attempt.step, attempt.examples = ended["step"], ended["examples"]
        weights = Weights(**ended["weights"]) if ended.get("weights") else None
        self._leave(key, ended["outcome"], infeasible=ended["infeasible"], error=ended["error"], weights=weights)
        return True

    def _bury(self, device: DeviceProcess, status: int, why: str | None) -> None:
        """End what a dead process held. Only those that had entered the stack can have killed it, or, where none
        had, the one whose turn it was.
        """
        how = why or (f"ended with signal {-status}" if status < 0 else f"ended with status {status}")
        held = {key: attempt for key, attempt in self._attempts.items() if attempt.device is device}
        suspects = [key for key, attempt in held.items() if attempt.started] or list(held)[:1]
        for key in held:
            outcome = "crashed" if key in suspects else "displaced"
            self._leave(key, outcome, error=f"the device process of {device.device} {how}")

    def _leave(
        self,
        key: Key,
        outcome: Any,
        *,
        infeasible: Any = None,
        error: str | None = None,
        weights: Weights | None = None,
    ) -> None:
        attempt = self._attempts.pop(key, None)
        self._left.add(key)
        finish = Finish(
            trial=key[0],
            attempt=key[1],
            outcome=outcome,
            infeasible=infeasible,
            step=attempt.step if attempt else 0,
            examples=attempt.examples if attempt else 0,
            error=error[-MOST_ERROR_TEXT:] if error else None,
            program=attempt.program if attempt else {},
            weights=weights,
        )
        self.outbox.finish(finish)


def _key(pair: list[int]) -> Key:
    trial, attempt = pair
    return trial, attempt
