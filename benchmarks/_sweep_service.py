"""Tuner as a user runs it: `tuner serve` with its local worker in processes of their own, on an empty data directory
and empty caches.

A study is timed from before its submit until a client that watches it sees its end.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import psutil
from _sweep_cases import CLOCK

from tuner import Client
from tuner.errors import InvalidInput, Unreachable

DEVICE_PROCESS = "tuner.worker.device.device"
START_S, QUIET_S, QUIET_SHARE = 60.0, 180.0, 0.1
PROGRAM = ("path", "width", "threads", "micro_batch")
Clocks = dict[str, tuple[float, int]]
"""Seconds and ticks of each device process."""

KNOWN_S = 60.0
"""How long a worker may take to say what it can run."""


@dataclass(frozen=True)
class Timing:
    """What one study took, in seconds, and what it found."""

    wall_s: float
    first_s: float
    """Until the first result."""
    server_cpu_s: float
    worker_cpu_s: float
    """Of the worker's agent and its device processes."""
    tick_s: tuple[float, ...]
    """In the ticks of each device process."""
    ticks: tuple[int, ...]
    rows: int
    """Rows of curves that the server received, in `syncs` syncs."""
    syncs: int
    utilisation: float | None
    programs: dict[str, int]
    """Trials by program."""
    trials: list[tuple[dict[str, Any], float | None]]
    """Configuration and final value."""

    @property
    def not_ticks(self) -> float:
        """Share of the time in which a device process did not tick, of the busiest one."""
        return 1 - max(self.tick_s, default=0.0) / self.wall_s

    def record(self) -> dict[str, Any]:
        """Return everything but the trials."""
        return {key: value for key, value in asdict(self).items() if key != "trials"} | {"not_ticks": self.not_ticks}


class Service:
    """One server with its caches and its data in `folder`. A context manager: stops everything that it started."""

    def __init__(self, folder: Path, workloads: Sequence[str]) -> None:
        self._folder = folder
        self._clock = folder / "clock"
        for name in ("clock", "cache", "inductor", "triton", "data"):
            (folder / name).mkdir(parents=True)
        caches = {"XDG_CACHE_HOME": "cache", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TUNER_")}
        environment |= {key: str(folder / name) for key, name in caches.items()} | {"SWEEP_CLOCK": str(self._clock)}
        port = _free_port()
        command = [sys.executable, "-m", "tuner", "serve", "--parent", str(os.getpid()), "--port", str(port)]
        command += ["--data-dir", str(folder / "data")]
        for source in (CLOCK, *workloads):
            command += ["--workloads", source]
        self._is_new, self._began = True, time.perf_counter()
        with (folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._tree = psutil.Process(self._process.pid)
        self._client = Client(f"http://127.0.0.1:{port}")

    def __enter__(self) -> Self:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise SystemExit((self._folder / "serve.log").read_text())
            try:
                self._client.health()
                return self
            except Unreachable:
                time.sleep(0.02)
        raise SystemExit("the server does not answer")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _submitted(self, document: dict[str, Any]) -> Any:
        """Submit a study as soon as the server has heard of its workload from a worker."""
        deadline = time.monotonic() + KNOWN_S
        while True:
            try:
                return self._client.submit(document)
            except InvalidInput as error:
                if "unknown workload" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def run(self, document: dict[str, Any]) -> Timing:
        """Run a study; the first one's time includes the start of the server."""
        is_first, self._is_new = self._is_new, False
        server, workers = self._cpu() if not is_first else (0.0, 0.0)
        clocks, (rows, syncs) = self._clocks(), self._counters()
        begin = self._began if is_first else time.perf_counter()
        study = self._submitted(document)
        first: float | None = None
        for view in self._client.watch(study.id):
            if first is None and view.best is not None:
                first = time.perf_counter() - begin
        wall = time.perf_counter() - begin
        server_after, workers_after = self._cpu()
        rows_after, syncs_after = self._counters()
        spent = _grown(clocks, self._clocks())
        trials = list(self._client.trials(study.id))
        programs: dict[str, int] = {}
        for trial in trials:
            name = _program(trial.program or {})
            programs[name] = programs.get(name, 0) + 1
        return Timing(
            wall,
            first or wall,
            server_after - server,
            workers_after - workers,
            tuple(seconds for seconds, _ in spent.values()),
            tuple(ticks for _, ticks in spent.values()),
            rows_after - rows,
            syncs_after - syncs,
            self._client.study(study.id).slot_utilisation,
            programs,
            [(trial.params, trial.value) for trial in trials],
        )

    def settle(self, longest_s: float = QUIET_S) -> float:
        """Wait until nothing works in the background any more; return the seconds that took."""
        begin = time.perf_counter()
        before, at = sum(self._cpu()), begin
        while time.perf_counter() - begin < longest_s:
            time.sleep(1.0)
            spent, now = sum(self._cpu()), time.perf_counter()
            if (spent - before) / (now - at) < QUIET_SHARE:
                break
            before, at = spent, now
        return time.perf_counter() - begin

    def _cpu(self) -> tuple[float, float]:
        """Return CPU seconds of the server, and of everything below it, the dead included."""
        own = self._tree.cpu_times()
        below = own.children_user + own.children_system
        for process in self._tree.children(recursive=True):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            below += times.user + times.system + times.children_user + times.children_system
        return own.user + own.system, below

    def _clocks(self) -> Clocks:
        """Return seconds in ticks and number of ticks of each device process."""
        paths = self._clock.glob(f"{DEVICE_PROCESS}-*")
        return {path.name: struct.unpack("=dq", path.read_bytes()) for path in paths}

    def _counters(self) -> tuple[int, int]:
        """Return how many curve rows and syncs the server has received."""
        text = httpx2.get(f"{self._client.url}/metrics").text
        found = dict(
            line.split(" ") for line in text.splitlines() if line.startswith(("tuner_reports_", "tuner_syncs_"))
        )
        return int(float(found["tuner_reports_total"])), int(float(found["tuner_syncs_total"]))


def _grown(before: Clocks, after: Clocks) -> Clocks:
    """Return what was added to each clock that has moved."""
    nothing = (0.0, 0)
    found = {
        name: (s - before.get(name, nothing)[0], t - before.get(name, nothing)[1]) for name, (s, t) in after.items()
    }
    return {name: (seconds, ticks) for name, (seconds, ticks) in found.items() if ticks}


def _program(program: dict[str, Any]) -> str:
    return ", ".join(f"{name} {program[name]}" for name in PROGRAM if name in program) or "none"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
