"""The demo's server: a child process that is started, monitored, restarted and stopped.

Invariants:
- The child leads its own process group, so that Ctrl-C in the terminal reaches only the parent, which then stops the
  child in order.
- After `stop` no started process is left: the group is killed if it does not end in time.
- A child that dies by itself is restarted, up to `RESTARTS` times; its data is in the database, so nothing is lost.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.client import Client
from tuner.errors import TunerError, Unreachable

RESTARTS = 3
STOP_S = 4.0
"""How long the child may take to shut down cleanly."""
START_S = 60.0
LOG_TAIL = 5


def serve_command(*arguments: str) -> list[str]:
    """Return the command that serves with these arguments and exits when this process has ended."""
    return [sys.executable, "-P", "-m", "tuner", "serve", "--parent", str(os.getpid()), *arguments]


class ServerProcess:
    """Runs a server's command; its output goes to `log`.

    `said` is called with messages for the user (a restart). A context manager: starts on entry, stops on exit.
    """

    def __init__(self, command: Sequence[str], log: Path, said: Callable[[str], None]) -> None:
        self._command, self._log, self._said = command, log, said
        self._stopping = threading.Event()
        self._gave_up = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher = threading.Thread(target=self._watch, name="server-watch", daemon=True)

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")  # only this server's output is searched for its final message
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid if self._process else None

    def wait_until_ready(self, client: Client) -> None:
        """Wait until the child responds, then monitor it. Raises `TunerError` with its final message if it ends."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process is not None and self._process.poll() is not None:
                raise TunerError(self._last_words(f"the server ended with code {self._process.returncode}"))
            try:
                client.health()
            except Unreachable:
                time.sleep(0.05)
                continue
            self._watcher.start()
            return
        raise TunerError(self._last_words(f"the server did not respond within {START_S:.0f} s"))

    def check(self) -> None:
        """Raise `TunerError` if the child keeps dying."""
        if self._gave_up.is_set():
            raise TunerError(self._last_words("the server keeps exiting"))

    def stop(self) -> None:
        """Stop the child cleanly within `STOP_S` seconds, or else by force. May be called twice."""
        self._stopping.set()
        with self._lock:
            process = self._process
            if process is None:
                return
            try:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
            finally:  # also if a second Ctrl-C interrupts the wait
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self) -> None:
        with self._lock, open(self._log, "ab") as log:
            if not self._stopping.is_set():
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )

    def _watch(self) -> None:
        for _ in range(RESTARTS):
            self._wait_for_end()
            if self._stopping.is_set():
                return
            self._said("the server ended unexpectedly; restarting it (no data is lost)")
            self._start()
        self._wait_for_end()
        if not self._stopping.is_set():
            self._gave_up.set()

    def _wait_for_end(self) -> None:
        while not self._stopping.is_set() and self._process is not None and self._process.poll() is None:
            self._stopping.wait(0.1)

    def _last_words(self, what: str) -> str:
        lines = self._log.read_text("utf-8", errors="replace").splitlines() if self._log.exists() else []
        words = [line.removeprefix("error: ") for line in lines[-LOG_TAIL:] if line.strip()]
        return f"{what}: {words[-1]}" if words else what
