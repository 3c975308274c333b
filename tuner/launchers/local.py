"""Local workers: one process per GPU, or one for the CPU, kept alive next to the server.

    workers = LocalWorkers(url, token, width=32, log_dir=Path("var/log"))
    workers.start()
    ... workers.poll() every second or so: restarts what died
    workers.stop()

A worker whose `--workloads` cannot be imported is not restarted. Workers are children of this process and exit by
themselves when it dies. The token is passed in their environment, never on a command line, which every user of the
machine can read.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import TunerError
from tuner.worker import mistakes
from tuner.worker.agent.gpus import visible_gpus

log = logging.getLogger(__name__)

STOP_PATIENCE_S = 3.5
"""A worker drains within 3 s of SIGTERM; then it is killed."""
MOST_LOG_BYTES = 16 * 2**20
"""Of a worker's log; as much before it is kept beside it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONG_LIFE_S = 0.5, 30.0, 60.0


class Mistaken(TunerError):
    """The user's workloads cannot be imported."""


@dataclass
class LocalWorker:
    """One worker process: its command and its state."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log_path: Path
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    start_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    starts: int = 0
    log_start: int = 0
    """Size of the log when the process was started."""
    mistake: str | None = None
    """Why it is not started again."""

    def start(self) -> None:
        """Start the process; its output is appended to the log."""
        self.started_at = time.monotonic()
        self.starts += 1
        with self.log_path.open("ab") as output:
            self.log_start = output.tell()
            # In its own session, so that Ctrl-C reaches only the server, which then stops its workers in order.
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rotate(self) -> None:
        """Keep the log bounded: what it holds moves to `.1`, in place of what was there.

        The process goes on appending to the same file, so it is copied and emptied, not renamed.
        """
        try:
            if self.log_path.stat().st_size <= MOST_LOG_BYTES:
                return
            shutil.copyfile(self.log_path, self.log_path.with_name(f"{self.log_path.name}.1"))
            os.truncate(self.log_path, 0)
            self.log_start = 0
        except OSError as error:
            log.warning("a worker's log cannot be rotated: %s", error, extra={"action": "rotate", "worker": self.name})

    def revive(self) -> None:
        """Restart the process if it died and its pause is over."""
        now = time.monotonic()
        if self.process is not None:
            status = self.process.poll()
            if status is None or self.mistake is not None:
                return
            if status == 0:  # a user drained it: it comes back with the next start of the server
                return
            if status == mistakes.STATUS:
                self.mistake = mistakes.in_log(self.log_path, self.log_start)
                log.error("a local worker gave up: %s", self.mistake, extra={"action": "give up", "worker": self.name})
                return
            if now - self.started_at > LONG_LIFE_S:
                self.pause_s = FIRST_PAUSE_S
            log.warning(
                "a local worker ended and will be restarted; see its log",
                extra={"action": "restart", "worker": self.name, "status": status, "log": str(self.log_path)},
            )
            self.process = None
            self.start_at = now + self.pause_s
            self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        if now >= self.start_at:
            self.start()


class LocalWorkers:
    """The workers of this machine.

    `url`, `token`: the server they work for. `width`: slots of each stack, None: measured. `log_dir`: where
    each writes its log. `workloads`: modules or files that register workloads. `threads`: per device process. `flags`:
    further options of `tuner worker`. `environment`: variables for them, where secrets belong.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        width: int | None,
        log_dir: Path,
        *,
        workloads: list[str] | None = None,
        threads: int | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._token = token
        self._width = width
        self._log_dir = Path(log_dir)
        self._workloads = workloads or []
        self._threads = threads
        self._flags = list(flags)
        self._environment = dict(environment or {})
        self.workers: list[LocalWorker] = []

    def start(self) -> None:
        """Start one worker per GPU that torch can use, or one for the CPU.

        Raises:
            Mistaken: a file of workloads does not exist or is not Python.
        """
        for source in self._workloads:
            mistake = mistakes.found_by_reading(source)
            if mistake is not None:
                raise Mistaken(mistake)
        self._log_dir.mkdir(parents=True, exist_ok=True)
        gpus = usable_gpus()
        self.workers = [self._worker(f"gpu{i}", "cuda:0", gpu) for i, gpu in enumerate(gpus)]
        self.workers = self.workers or [self._worker("cpu", "cpu", None)]
        for worker in self.workers:
            worker.start()

    def poll(self) -> int:
        """Restart workers that died, each after an increasing pause; return how many are running.

        Raises:
            Mistaken: the workloads cannot be imported, and never could since `start`.
        """
        for worker in self.workers:
            worker.rotate()
            worker.revive()
            if worker.mistake is not None and worker.starts == 1:
                raise Mistaken(worker.mistake)
        return sum(worker.process is not None and worker.process.poll() is None for worker in self.workers)

    def stop(self) -> None:
        """Let the workers return their trials; kill those that take longer than `STOP_PATIENCE_S`."""
        running = [worker.process for worker in self.workers if worker.process is not None]
        self.workers = []
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_PATIENCE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _worker(self, label: str, device: str, gpu: str | None) -> LocalWorker:
        command = [sys.executable, "-P", "-m", "tuner", "worker", "--server", self._url, "--name", f"local-{label}"]
        command += ["--device", device, "--parent", str(os.getpid())]
        command += ["--width", str(self._width)] if self._width is not None else []
        if self._threads is not None:
            command += ["--threads", str(self._threads)]
        command += self._flags
        for source in self._workloads:
            command += ["--workloads", source]
        environment = {**os.environ, **self._environment}
        for name in ("TUNER_TOKEN", "TUNER_TOKEN_FILE"):
            environment.pop(name, None)
        if self._token:
            environment["TUNER_TOKEN"] = self._token
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        return LocalWorker(f"local-{label}", command, environment, self._log_dir / f"worker-{label}.log")


def usable_gpus() -> list[str]:
    """Return the GPUs that the installed torch can use; if there are any, a separate process checks."""
    gpus = visible_gpus()
    if not gpus:
        return []
    question = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-P", "-c", question], capture_output=True, encoding="utf-8", check=False)
    count = int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0
    if count < len(gpus):
        log.warning("torch can use %d of %d GPUs", count, len(gpus), extra={"action": "devices"})
    return gpus[:count]
