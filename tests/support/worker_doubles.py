"""A server and devices for the agent's tests, in this process and under the test's control."""

import threading
import time
from collections.abc import Callable
from typing import Any

from tuner.errors import TunerError
from tuner.wire.sync import (
    Assignment,
    Finish,
    Registered,
    Registration,
    Report,
    Stop,
    SyncReply,
    SyncRequest,
)
from tuner.worker.agent.agent import Agent
from tuner.worker.agent.child import DeviceProcess, Listener
from tuner.worker.channel import Json


def assignment(trial: int, attempt: int = 1, **changes: Any) -> Assignment:
    values: dict[str, Any] = {
        "trial": trial,
        "attempt": attempt,
        "token": f"token-{trial}-{attempt}",
        "device": "cpu",
        "stack": "digits",
        "study": "s",
        "study_id": 1,
        "number": trial,
        "workload": "digits-mlp",
        "params": {"optimizer": "sgd", "lr": 0.1, "batch_size": 16},
        "seed": 0,
        "examples": 320,
        "micro_batch": 4,
        "per_tick": 1,
        "rungs": [],
        "report_every": 80,
        "divergence_factor": 10.0,
        "in_flight": 8,
        "slots": 8,
        "remaining": 1,
        "priority": 1.0,
    }
    return Assignment(**{**values, **changes})


class FakeServer:
    """Keeps leases as the real server does: level-triggered, and deaf or mute when told to be."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leases: dict[tuple[int, int], Assignment] = {}
        self.stops: list[Stop] = []
        self.requests: list[SyncRequest] = []
        self.registrations: list[Registration] = []
        self.reports: dict[tuple[int, int, int], Report] = {}
        self.finishes: list[Finish] = []
        self.database = "one"
        self.lease_s = 30.0
        self.refused = 0
        self.fault: TunerError | None = None
        """Raised instead of taking a request in."""
        self.mute: TunerError | None = None
        """Raised after a request was taken in: its reply is lost."""
        self.stubborn = False
        """Repeat assignments even when they are held or finished, as a late reply would."""

    def lease(self, *assignments: Assignment) -> None:
        with self.lock:
            self.leases |= {(a.trial, a.attempt): a for a in assignments}

    def register(self, registration: Registration) -> Registered:
        with self.lock:
            if self.fault is not None:
                raise self.fault
            self.registrations.append(registration)
            return Registered(worker=len(self.registrations), lease_s=self.lease_s, database=self.database)

    def sync(self, worker: int, request: SyncRequest) -> SyncReply:
        with self.lock:
            if self.fault is not None:
                self.refused += 1
                raise self.fault
            self.requests.append(request)
            for report in request.reports:
                self.reports[report.trial, report.attempt, report.step] = report
            self.finishes += request.finished
            held = {(h.trial, h.attempt) for h in request.held}
            done = {(f.trial, f.attempt) for f in self.finishes} | {(s.trial, s.attempt) for s in self.stops}
            if self.mute is not None:
                raise self.mute
            wanted = [a for key, a in self.leases.items() if self.stubborn or key not in held | done]
            stop = [s for s in self.stops if (s.trial, s.attempt) in held]
            return SyncReply(assign=wanted, stop=stop, lease_s=self.lease_s, next_sync_s=0.05)

    def outcomes(self) -> dict[tuple[int, int], str]:
        with self.lock:
            return {(f.trial, f.attempt): f.outcome for f in self.finishes}


class FakeDevice(DeviceProcess):
    """A device that says what the test tells it to say."""

    def __init__(self, device: str = "cpu", width: int = 2) -> None:
        super().__init__(device, width, 1, [])
        self.sent: list[Json] = []
        self.starts = 0
        self.closed = False
        self.dead_at_birth = False
        self.killed: str | None = None
        self.death = 1
        self._listener: Listener | None = None

    def keep_running(self, listen: Listener) -> None:
        if self._listener is None and not self.closed:
            self._listener = listen
            self.starts += 1
            if self.dead_at_birth:
                self.say({"died": self.death})
            else:
                self.say({"hello": {"workloads": [{"name": "digits-mlp", "description": ""}], "description": "a CPU"}})

    def send(self, message: Json) -> None:
        self.sent.append(message)

    def close(self, patience_s: float) -> None:
        self.closed = True

    def say(self, message: Json) -> None:
        assert self._listener is not None
        self._listener(self, message)

    def kill(self, why: str) -> None:
        self.killed = why

    def die(self, status: int) -> None:
        listener, self._listener = self._listener, None
        assert listener is not None
        listener(self, {"died": status})

    def start(self, trial: int, attempt: int = 1) -> None:
        self.say({"started": [trial, attempt], "program": {"device": "cpu", "width": self.width}})

    def row(self, trial: int, step: int, attempt: int = 1, loss: float = 1.0) -> None:
        row = {"trial": trial, "attempt": attempt, "step": step, "examples": 16 * step, "elapsed_s": 0.1}
        self.say({"row": {**row, "metrics": {"valid_loss": loss}, "noise": None}})

    def end(self, trial: int, attempt: int = 1, outcome: str = "finished", **changes: Any) -> None:
        ended = {"trial": trial, "attempt": attempt, "outcome": outcome, "infeasible": None, "error": None}
        self.say({"ended": {**ended, "step": 9, "examples": 144, **changes}})

    def assigned(self) -> list[tuple[int, int]]:
        return [(m["assign"]["trial"], m["assign"]["attempt"]) for m in self.sent if "assign" in m]


class RunningAgent:
    """An agent in a thread of its own, drained when the test is done with it."""

    def __init__(self, server: Any, *devices: DeviceProcess, hang_s: float = 300.0) -> None:
        self.agent = Agent(server, devices, name="test", session="s" * 16, hang_s=hang_s)
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.status = self.agent.run()

    def __enter__(self) -> "RunningAgent":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()

    def drain(self) -> int | None:
        self.agent.stop()
        self._thread.join(20)
        return self.status


def eventually(condition: Callable[[], object], patience_s: float = 30.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)
