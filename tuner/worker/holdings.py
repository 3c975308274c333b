"""What a worker holds: attempts on its devices, and what is still to be told of them. Safe to share between threads.

Invariant: an attempt is here once, from its assignment until its last word is acknowledged; what has left never comes
back, whatever a late or repeated reply says.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    SlotCount,
    Started,
    Stop,
    SyncReply,
    SyncRequest,
    Weights,
    WorkloadInfo,
)
from tuner.worker.ahead import Ahead
from tuner.worker.channel import Json
from tuner.worker.child import DeviceProcess
from tuner.worker.outbox import MOST_REPORTS, Key, Outbox, Parcel
from tuner.worker.slot_totals import SlotTotals

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
    reproducible: bool = False
    left: bool = False
    """Its slot is free, its last word still to come."""


@dataclass
class Board:
    """What a device process said of itself since it started."""

    width: int
    ahead: Ahead
    ready: bool = False
    description: str = ""
    checkpoints: bool = False
    scope: str = SHARED
    workloads: list[WorkloadInfo] = field(default_factory=list)
    stack: str | None = None
    declines: set[str] = field(default_factory=set)
    """Fingerprints of the programs that it was asked to run and does not."""


class Holdings:
    """Attempts and messages of all devices of a worker. `clock` gives seconds."""

    def __init__(self, devices: Sequence[DeviceProcess], clock: Callable[[], float] = time.monotonic) -> None:
        self.devices = list(devices)
        self.outbox = Outbox()
        self.lock = threading.RLock()
        self._attempts: dict[Key, Attempt] = {}
        self._left: set[Key] = set()
        self._draining = False
        self._boards = {device.device: Board(device.width, Ahead(clock)) for device in devices}
        self._slots = SlotTotals()
        self._wanted: dict[str, list[Json]] = {}

    @property
    def ready(self) -> bool:
        """Whether every device has said what it can do."""
        with self.lock:
            return all(board.ready for board in self._boards.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nothing is to be told."""
        with self.lock:
            return not self._attempts and not len(self.outbox) and not self._slots.untold()

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
                taken = sum(a.device.device == name and not a.left for a in self._attempts.values())
                most = board.width + board.ahead.count(board.width) if board.ready else 0
                declines = sorted(board.declines)
                result.append(Capacity(device=name, stack=board.stack, free=max(0, most - taken), declines=declines))
            return result

    def slots(self) -> list[SlotCount]:
        """Return the counts of slot-ticks that the server has not acknowledged."""
        with self.lock:
            return self._slots.untold()

    def answered(self, parcel: Parcel, request: SyncRequest, seconds: float) -> bool:
        """Forget what a request carried that the server answered after so long; say whether reports did not fit."""
        with self.lock:
            self.outbox.acknowledge(parcel)
            self._slots.acknowledge(request.slots)
            if not request.wait_s:  # else it lasted as long as there was no work
                for board in self._boards.values():
                    board.ahead.answered(seconds)
            return len(parcel.reports) >= MOST_REPORTS

    def obey(self, reply: SyncReply) -> bool:
        """Make come true what the server wants; say whether a stop freed a slot."""
        dropped = [self.drop(stop) for stop in reply.stop]
        for assignment in reply.assign:
            self.take(assignment)
        for device in self.devices:
            wanted = [d.model_dump(exclude={"device"}) for d in reply.demand if d.device == device.device]
            if self._boards[device.device].ready and wanted != self._wanted.get(device.device, []):
                self._wanted[device.device] = wanted
                device.send({"demand": wanted})
        return any(dropped)

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
            self._attempts[key] = Attempt(device, reproducible=assignment.reproducible)
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
            self._boards[attempt.device.device].ahead.ended()
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
                return self._started(_key(message["started"]), message["program"])
            if "left" in message:
                return self._leave_slot(_key(message["left"]))
            if "slots" in message:
                self._slots.count(device.device, message["slots"])
                return False
            if "declined" in message:
                board.declines.add(message["declined"])
                return False
            if "ended" in message:
                return self._ended(message["ended"])
            if "checkpointed" in message:
                self.outbox.checkpoint(Checkpointed(**message["checkpointed"]))
                return False
            if "restarted" in message:
                why = _plain(message["restarted"]["why"])[:MOST_REASON]
                self.outbox.restart(Restarted(**{**message["restarted"], "why": why}))
                return False
            if "alive" in message:
                return False
            if "hello" in message:
                hello = message["hello"]
                board.ready, board.description = True, hello["description"]
                board.checkpoints, board.scope = hello.get("checkpoints", False), hello.get("scope", SHARED)
                board.workloads = [WorkloadInfo(**item) for item in hello["workloads"]]
            elif "died" in message:
                self._boards[device.device] = Board(device.width, board.ahead)
                self._slots.restart(device.device)
                self._wanted.pop(device.device, None)
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

    def _started(self, key: Key, program: dict[str, Any]) -> bool:
        attempt = self._attempts.get(key)
        if attempt is None:
            return False
        attempt.started, attempt.program = True, program
        self.outbox.start(Started(trial=key[0], attempt=key[1], program=program))
        return attempt.reproducible  # the server grants no more of its study before it knows the program

    def _report(self, row: Json) -> None:
        key = row["trial"], row["attempt"]
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        attempt.step, attempt.examples = row["step"], row["examples"]
        noise = NoiseRow(**row["noise"]) if row["noise"] else None
        self.outbox.report(Report(**{**row, "noise": noise}))

    def _leave_slot(self, key: Key) -> bool:
        attempt = self._attempts.get(key)
        if attempt is None or attempt.left:
            return False
        attempt.left = True
        self._boards[attempt.device.device].ahead.ended()
        return True

    def _ended(self, ended: Json) -> bool:
        key = ended["trial"], ended["attempt"]
        if key not in self._attempts:
            return False
        attempt = self._attempts[key]
        attempt.step, attempt.examples = ended["step"], ended["examples"]
        self._leave_slot(key)
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
            error=_plain(error)[-MOST_ERROR_TEXT:] if error else None,
            program=attempt.program if attempt else {},
            weights=weights,
        )
        self.outbox.finish(finish)


def _plain(text: str) -> str:
    """Replace what UTF-8 cannot carry: names of files in another encoding, in the words of a user's error."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _key(pair: list[int]) -> Key:
    trial, attempt = pair
    return trial, attempt
