"""The server's end of the sampler process: one request, one answer, started again when it dies."""

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from tuner.errors import TunerError
from tuner.search.request import AskRequest, to_json
from tuner.study.hyperparameter import Scalar

log = logging.getLogger(__name__)


class SamplerFailed(TunerError):
    """The sampler process could not answer."""


class Asker:
    """Asks the sampler process for configurations. Thread-safe; one request at a time."""

    def __init__(self, timed: Callable[[str, float], None] = lambda method, seconds: None) -> None:
        """`timed` is called for each answer with the method and the seconds it took, without the wait for the lock."""
        self._timed = timed
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def ask(self, request: AskRequest) -> list[dict[str, Scalar]]:
        """Return one configuration per index of the request.

        Raises:
            SamplerFailed: the sampler raised, or its process died twice.
        """
        line = json.dumps(to_json(request)) + "\n"
        with self._lock:
            begun = time.perf_counter()
            answer = self._exchange(line) or self._exchange(line)
            self._timed(request.method, time.perf_counter() - begun)
        if not answer:
            raise SamplerFailed(f"the sampler process died while asked for a configuration of {request.family}")
        data = json.loads(answer)
        if "error" in data:
            raise SamplerFailed(f"the {request.method} sampler failed on {request.family}: {data['error']}")
        configurations: list[dict[str, Scalar]] = data["configurations"]
        return configurations

    def _exchange(self, line: str) -> str:
        """Send a line and read one; empty when the process is gone."""
        if self._closed:
            raise SamplerFailed("the server is shutting down")
        if self._process is None or self._process.poll() is not None:
            log.info("starting the sampler process", extra={"action": "sampler_start"})
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tuner.search.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is the server's; this process ends when its input closes
            )
            if self._closed:  # closed while it was starting
                self._process.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            return ""
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the process. A request that is under way fails."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.communicate()
