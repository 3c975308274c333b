"""The agent's side of a device process: starting it, messages, detecting its death, restarting it.

A process that dies is restarted after a pause that doubles from 0.5 s to 30 s, and is reset after a minute of running.
Invariants: a process that does not read its messages (it hangs, or was stopped) never blocks the agent; one that sends
malformed messages is terminated, since its trials would otherwise be held forever.
"""

import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from tuner.worker.agent.device import Device
from tuner.worker.agent.tail import Tail
from tuner.worker.channel import Json, read_lines, write_line

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S, LONG_LIFE_S = 0.5, 30.0, 60.0
LAST_MESSAGES_S = 1.0
CHECKPOINT_EVERY_S = 10.0

Listener = Callable[[Device, Json], None]


def _pass_on(data: bytes) -> None:
    """Print what a device process printed."""
    with contextlib.suppress(OSError):  # nobody reads this worker's own output any more
        while data:
            data = data[os.write(2, data) :]


class DeviceProcess:
    """One device of the worker. Messages are passed to `listen` in a separate thread, with {"died": status, "why":
    reason or null} as the last one, unless the process was closed.
    """

    def __init__(
        self,
        device: str,
        width: int | None,
        threads: int | None,
        workloads: list[str],
        checkpoints: str | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        number: int | None = None,
        own_disk: bool = False,
        processes: int = 1,
    ) -> None:
        """`width` and `threads` None are measured. `number` distinguishes the `processes` on one device."""
        self.device = device if number is None else f"{device}#{number}"
        """The name that the worker uses for it."""
        self.width = width
        """Slots of its stacks, if the user set them."""
        self.heard = 0
        """Messages received so far."""
        self.output = Tail(_pass_on)
        """The end of what it printed, over all its lives."""
        self._command = [sys.executable, "-P", "-m", "tuner.worker.device.device", "--device", device]
        self._command += ["--width", str(width)] if width else []
        self._command += ["--threads", str(threads)] if threads else []
        self._command += ["--processes", str(processes), "--workloads", *workloads]
        if checkpoints is not None:
            self._command += ["--checkpoints", checkpoints, "--checkpoint-every", str(checkpoint_every_s)]
            self._command += ["--own-disk"] if own_disk else []
        self._process: subprocess.Popen[str] | None = None
        self._pause_s = FIRST_PAUSE_S
        self._started_at = 0.0
        self._start_at = 0.0
        self._closing = False
        self._killed_why: str | None = None
        self._reader: threading.Thread | None = None
        self._printed: threading.Thread | None = None
        self._outgoing: queue.SimpleQueue[Json | None] = queue.SimpleQueue()

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def keep_running(self, listen: Listener) -> None:
        """Start the process, unless it is running, is still in the pause after its death, or was closed."""
        if self._process is None and not self._closing and time.monotonic() >= self._start_at:
            self._started_at = time.monotonic()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            assert self._process.stderr is not None
            printed = self.output.follow(os.dup(self._process.stderr.fileno()))
            self._process.stderr.close()
            self._killed_why = None
            self._outgoing = queue.SimpleQueue()
            ends = self._process, self._outgoing
            self._printed = printed
            threading.Thread(target=self._write, args=ends, name=f"to {self.device}", daemon=True).start()
            self._reader = threading.Thread(target=self._read, args=(*ends, listen), name=self.device, daemon=True)
            self._reader.start()

    def send(self, message: Json) -> None:
        """Send a message without waiting; if the process is dying, the message is lost and the death is reported."""
        self._outgoing.put(message)

    def kill(self, why: str) -> None:
        """Kill the process; its death is reported with the reason, and it is restarted."""
        process = self._process
        if process is not None:
            self._killed_why = why
            process.kill()

    def hang_up(self) -> None:
        """Let the process exit after it has sent its remaining messages. It is not restarted."""
        self._closing = True
        self._outgoing.put(None)

    def close(self, patience_s: float) -> None:
        """Let the process exit, kill it if it does not exit in time, and read its remaining messages."""
        self.hang_up()
        process = self._process
        if process is None:
            return
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(LAST_MESSAGES_S)

    def _write(self, process: "subprocess.Popen[str]", outgoing: "queue.SimpleQueue[Json | None]") -> None:
        """Write messages until None arrives; then close the process's stdin."""
        assert process.stdin is not None
        try:
            while (message := outgoing.get()) is not None:
                write_line(process.stdin, message)
        except (OSError, ValueError):
            log.debug("a message to a dying device process was lost", extra={"action": "send", "device": self.device})
        try:
            process.stdin.close()
        except OSError:
            pass  # unsent bytes for a dead process

    def _read(
        self, process: "subprocess.Popen[str]", outgoing: "queue.SimpleQueue[Json | None]", listen: Listener
    ) -> None:
        assert process.stdout is not None
        with process.stdout:
            try:
                for message in read_lines(process.stdout):
                    self.heard += 1
                    listen(self, message)
            except Exception as error:  # whatever it was, nothing would read the process's messages from now on
                log.exception(
                    "a device process sent a malformed message and is terminated", extra={"device": self.device}
                )
                self._killed_why = f"sent a malformed message ({type(error).__name__}: {error})"
                process.kill()
        status = process.wait()
        if self._printed is not None:
            self._printed.join(LAST_MESSAGES_S)
        if time.monotonic() - self._started_at > LONG_LIFE_S:
            self._pause_s = FIRST_PAUSE_S
        self._start_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        outgoing.put(None)
        self._process = None
        if not self._closing:
            listen(self, {"died": status, "why": self._killed_why})
