"""The server's end of the sampler process: one request, one answer.

The process is sent what changed in a family's history since its last request (`tuner.search.feeding`), and everything
when it does not hold what it should. A process that dies is started again, and holds nothing. One that does not answer
within a deadline (it hangs, or was stopped) is killed.
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tuner.errors import TunerError
from tuner.search.feeding import Feed
from tuner.search.request import AskRequest
from tuner.study.hyperparameter import Scalar

log = logging.getLogger(__name__)
CHUNK = 65536
"""Bytes written or read at a time."""


class SamplerFailed(TunerError):
    """The sampler process could not answer."""


class Asker:
    """Asks the sampler process for configurations. Thread-safe; one request at a time."""

    def __init__(
        self,
        deadline_s: float,
        timed: Callable[[str, float], None] = lambda method, seconds: None,
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "tuner.search.process"),
    ) -> None:
        """`timed` is called for each answer with the method and the seconds it took, without the wait for the lock."""
        self._deadline_s = deadline_s
        self._timed = timed
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._feed = Feed()
        self._closed = False
        self.trouble: str | None = None
        """What the last request failed with; None if it was answered."""

    def ask(self, request: AskRequest) -> list[dict[str, Scalar]]:
        """Return one configuration per index of the request.

        Raises:
            SamplerFailed: the sampler raised, its process died twice or did not take in what it was told, or it did
                not answer within the deadline.
        """
        try:
            configurations = self._ask(request)
        except SamplerFailed as error:
            self.trouble = str(error)
            raise
        self.trouble = None
        return configurations

    def _ask(self, request: AskRequest) -> list[dict[str, Scalar]]:
        family = request.search.family
        with self._lock:
            begun = time.perf_counter()
            answer = self._answer(request)
            if answer is None or "lost" in answer:
                log.info("telling the sampler everything", extra={"action": "sampler_feed", "family": family})
                answer = self._answer(request)
            self._timed(request.search.method, time.perf_counter() - begun)
        if answer is None:
            raise SamplerFailed(f"the sampler process died while asked for a configuration of {family}")
        if "lost" in answer:
            raise SamplerFailed(f"the sampler process does not take in the history of {family}")
        if "error" in answer:
            raise SamplerFailed(f"the {request.search.method} sampler failed on {family}: {answer['error']}")
        configurations: list[dict[str, Scalar]] = answer["configurations"]
        return configurations

    def _answer(self, request: AskRequest) -> dict[str, Any] | None:
        """Return what the process says, None when it died."""
        process = self._running()
        line = self._exchange(process, self._feed.message(request).encode(), request.search.family)
        answer: dict[str, Any] | None = json.loads(line) if line else None
        if answer is None or "configurations" not in answer:
            self._feed.lost(request.search)
        return answer

    def _exchange(self, process: "subprocess.Popen[bytes]", line: bytes, family: str) -> bytes:
        """Send a line and read one; empty when the process is gone."""
        assert process.stdin is not None and process.stdout is not None
        source, target = process.stdout.fileno(), process.stdin.fileno()
        until, answer, left = time.monotonic() + self._deadline_s, b"", memoryview(line)
        while not answer.endswith(b"\n"):
            ready = _ready(source, target if left else None, until - time.monotonic())
            if not ready:
                self._end()
                raise SamplerFailed(
                    f"the sampler process did not answer within {self._deadline_s:g} s "
                    f"when asked for a configuration of {family}, and was ended"
                )
            try:
                if target in ready:
                    left = left[os.write(target, left[:CHUNK]) :]
                if source in ready:
                    said = os.read(source, CHUNK)
                    answer += said
                    if not said:
                        self._end()
                        return b""
            except OSError:
                self._end()
                return b""
        return answer

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._closed:
            raise SamplerFailed("the server is shutting down")
        if self._process is None or self._process.poll() is not None:
            self._end()
            log.info("starting the sampler process", extra={"action": "sampler_start"})
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is the server's; this process ends when its input closes
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
            if self._closed:  # closed while it was starting
                self._process.kill()
        return self._process

    def _end(self) -> None:
        """Kill the process, if there is one, and let go of its pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def close(self) -> None:
        """End the process. A request that is under way fails."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()


def _ready(source: int, target: int | None, patience_s: float) -> set[int]:
    """Wait until a pipe can be read, or the other one written to; return which. `select` takes no number above 1023."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    if target is not None:
        poll.register(target, select.POLLOUT)
    return {number for number, _ in poll.poll(max(0.0, 1000 * patience_s))}
