"""What a worker holds: attempts on its devices, and the messages about them that are still to be sent. Thread-safe.

Invariant: attempts, outbox and boards change together, under one lock, so that every request states what
is true at one moment. An attempt is named from its assignment until its last word is acknowledged.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tuner.errors import TunerError
from tuner.store import SHARED
from tuner.wire.sync import (
    Assignment,
    Capacity,
    Checkpointed,
    DeviceInfo,
    Finish,
    Held,
    Restarted,
    Stop,
    SyncReply,
    SyncRequest,
)
from tuner.wire.workload_info import WorkloadInfo
from tuner.worker.agent.ahead import Ahead
from tuner.worker.agent.attempts import Attempts, plain
from tuner.worker.agent.device import Device
from tuner.worker.agent.outbox import MOST_REPORTS, Key, Outbox, Parcel
from tuner.worker.channel import Json

MOST_REASON = 1000


@dataclass
class Board:
    """What a device process has reported about itself since it started."""

    ahead: Ahead
    ready: bool = False
    description: str = ""
    checkpoints: bool = False
    scope: str = SHARED
    workloads: list[WorkloadInfo] = field(default_factory=list)
    stacks: dict[str, int] = field(default_factory=dict)
    """Stack key -> how many of its trials may train here at once."""
    opens: bool = True
    """Whether it takes a trial of another stack."""
    declines: set[str] = field(default_factory=set)
    """Fingerprints of the programs that it was asked to run and cannot."""
    cannot_load: set[str] = field(default_factory=set)
    """Keys of the stacks whose workload did not load since the process started."""

    def greet(self, hello: Json) -> None:
        """Store what the process can do, from its first message."""
        self.ready, self.description = True, hello["description"]
        self.checkpoints, self.scope = hello.get("checkpoints", False), hello.get("scope", SHARED)
        self.workloads = [WorkloadInfo(**item) for item in hello["workloads"]]


class AnotherDatabase(TunerError):
    """The server speaks of other work than this worker holds: its database was replaced or restored."""


class Holdings:
    """Attempts and messages of all devices of a worker. `clock` gives seconds."""

    def __init__(self, devices: Sequence[Device], clock: Callable[[], float] = time.monotonic) -> None:
        self.devices = list(devices)
        self.outbox = Outbox()
        self.lock = threading.RLock()
        self._attempts = Attempts(self.outbox, self._freed)
        self._pausing: set[Key] = set()
        """Attempts whose device was told to pause them."""
        self._draining = False
        self._boards = {device.device: Board(Ahead(clock)) for device in devices}

    @property
    def ready(self) -> bool:
        """Whether every device has reported what it can do."""
        with self.lock:
            return all(board.ready for board in self._boards.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nothing is waiting to be sent."""
        with self.lock:
            return not len(self._attempts) and not len(self.outbox)

    def device_infos(self) -> list[DeviceInfo]:
        """Describe the devices, for registration."""
        with self.lock:
            return [
                DeviceInfo(
                    device=name,
                    description=board.description,
                    width=device.width,
                    checkpoints=board.checkpoints,
                    scope=board.scope,
                )
                for device in self.devices
                for name, board in [(device.device, self._boards[device.device])]
            ]

    def workloads(self) -> list[WorkloadInfo]:
        """Name what every device of this worker can run."""
        with self.lock:
            return next(iter(self._boards.values())).workloads

    def busy(self, device: Device) -> bool:
        """Whether a device holds attempts."""
        with self.lock:
            return self._attempts.on(device)

    def held(self, told: Sequence[Finish]) -> list[Held]:
        """Name the attempts whose final message is not among those `told` in the same request.

        One that was stopped is named until what it had reported has arrived.
        """
        with self.lock:
            saying = {(finish.trial, finish.attempt) for finish in told}
            reporting = {key: self._attempts.token(key) for key in self.outbox.reporting()}
            tokens = {key: token for key, token in reporting.items() if token is not None}
            tokens |= self._attempts.tokens() | self.outbox.unsaid()
            return [
                Held(trial=key[0], attempt=key[1], token=token) for key, token in tokens.items() if key not in saying
            ]

    def capacity(self) -> list[Capacity]:
        """Return each device's capacity, stack by stack: free slots and a few assignments ahead, so that no slot waits
        for a sync. A device that can open another stack takes one trial for it, and says how many more once it knows.
        """
        with self.lock:
            result = []
            for name, board in self._boards.items():
                taken = self._attempts.taken(name)
                lacks = {"declines": sorted(board.declines), "cannot_load": sorted(board.cannot_load)}
                for stack, width in board.stacks.items():
                    free = max(0, width + board.ahead.count(width) - taken.get(stack, 0))
                    result.append(Capacity(device=name, stack=stack, free=free, **lacks))
                opening = taken.keys() - board.stacks.keys()
                free = int(board.ready and board.opens and not opening)
                result.append(Capacity(device=name, stack=None, free=free, **lacks))
            return result

    def answered(self, parcel: Parcel, request: SyncRequest, seconds: float) -> bool:
        """Drop what an answered request carried, after so many seconds; return whether more reports are waiting."""
        with self.lock:
            self.outbox.acknowledge(parcel)
            if not request.wait_s:  # otherwise it measures how long there was no work
                for board in self._boards.values():
                    board.ahead.answered(seconds)
            return len(parcel.reports) >= MOST_REPORTS

    def obey(self, reply: SyncReply) -> bool:
        """Start, pause and stop what the server asks for; return whether a stop freed a slot."""
        dropped = [self.drop(stop) for stop in reply.stop if stop.order != "pause"]
        self._pause({(stop.trial, stop.attempt) for stop in reply.stop if stop.order == "pause"})
        for assignment in reply.assign:
            self.take(assignment)
        return any(dropped)

    def take(self, assignment: Assignment) -> None:
        """Start an assignment, unless it is or was held here.

        Raises:
            AnotherDatabase: the same numbers were another attempt's.
        """
        key, token = (assignment.trial, assignment.attempt), assignment.token
        with self.lock:
            known = self._attempts.token(key)
            if known is not None and known != token:
                raise AnotherDatabase(f"trial {key[0]}, attempt {key[1]} of the server is not the one known here")
            if known is not None:
                return
            if self._draining:
                self._attempts.leave(key, "drained", token=token)
                return
            device = next((d for d in self.devices if d.device == assignment.device), None)
            if device is None or not self._boards[device.device].ready:
                why = f"device {assignment.device} is not running"
                self._attempts.leave(key, "displaced", token=token, error=why)
                return
            self._attempts.take(key, token, device, assignment.stack, reproducible=assignment.reproducible)
            device.send({"assign": assignment.model_dump(mode="python")})

    def kept(self, told: Sequence[Checkpointed]) -> None:
        """Tell the devices which checkpoints the server has recorded."""
        with self.lock:
            for checkpointed in told:
                key = checkpointed.trial, checkpointed.attempt
                device = self._attempts.device(key)
                if device is not None:
                    device.send({"kept": list(key)})

    def drop(self, stop: Stop) -> bool:
        """Stop an attempt that the server has given up; return whether it was held. A queued final message stays."""
        key = stop.trial, stop.attempt
        with self.lock:
            device = self._attempts.drop(key)
            if device is None:
                return False
            device.send({"stop": list(key)})
            return True

    def _pause(self, wanted: set[Key]) -> None:
        """Have the attempts paused that the server names now, and let those go on that it names no more."""
        with self.lock:
            for words, keys in (("pause", wanted - self._pausing), ("go_on", self._pausing - wanted)):
                for key in sorted(keys):
                    device = self._attempts.device(key)
                    if device is not None:
                        device.send({words: list(key)})
            self._pausing = {key for key in wanted if self._attempts.device(key) is not None}

    def listen(self, device: Device, message: Json) -> bool:
        """Handle a message from a device process; return whether the server should be told at once."""
        if message.get("ended", {}).get("outcome") == "error":
            device.output.settle()  # its last lines tell why
        with self.lock:
            board = self._boards[device.device]
            if "row" in message:
                self._attempts.report(message["row"])
                return False
            if "started" in message:
                return self._attempts.start(_key(message["started"]), message["program"])
            if "left" in message:
                return self._attempts.leave_slot(_key(message["left"]))
            if "declined" in message:
                board.declines.add(message["declined"])
                return False
            if "cannot_load" in message:
                board.cannot_load.add(message["cannot_load"])
                return False
            if "ended" in message:
                if message["ended"]["outcome"] == "error":
                    self._attempts.log(_key_of(message["ended"]), device.output)
                return self._attempts.end(message["ended"])
            if "log" in message:
                self._attempts.log(_key(message["log"]), device.output)
                return False
            if "checkpointed" in message:
                self.outbox.checkpoint(Checkpointed(**message["checkpointed"]))
                return False
            if "restarted" in message:
                why = plain(message["restarted"]["why"])[:MOST_REASON]
                self.outbox.restart(Restarted(**{**message["restarted"], "why": why}))
                return False
            if "alive" in message:
                return False
            if "hello" in message:
                board.greet(message["hello"])
            elif "died" in message:
                self._boards[device.device] = Board(board.ahead)
                self._attempts.bury(device, message["died"], message.get("why"))
            else:
                board.stacks, board.opens = message["stacks"], message["opens"]
            return True

    def start_clean(self, why: str) -> None:
        """Forget all that is held and unsent, and start every device process anew."""
        with self.lock:
            self._attempts.clear()
            self.outbox.clear()
            for device in self.devices:
                # Not ready until the next process says so: nothing is assigned to the one that is being ended.
                self._boards[device.device] = Board(self._boards[device.device].ahead)
                device.kill(why)

    def drain(self) -> None:
        """Return every attempt to the server, including any still to arrive."""
        with self.lock:
            self._draining = True
            for key in self._attempts.keys():
                self._attempts.leave(key, "drained")

    def _freed(self, device: Device) -> None:
        self._boards[device.device].ahead.ended()


def _key(pair: list[int]) -> Key:
    trial, attempt = pair
    return trial, attempt


def _key_of(ended: Json) -> Key:
    return ended["trial"], ended["attempt"]
