"""The compiling process (`warm.py`) as its device process sees it: started, asked, ended."""

import json
import logging
import subprocess
import sys

from tuner.worker.channel import Json

log = logging.getLogger(__name__)

COMPILED, NOT_COMPILED = 0, 3
"""Its exit status."""


class Warming:
    """The compiling process as its device process sees it."""

    def __init__(self, wanted: Json) -> None:
        command = [sys.executable, "-P", "-m", "tuner.worker.device.warm", json.dumps(wanted)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def result(self) -> bool | None:
        """Say whether the programs are there; None while they are being compiled."""
        status = self._process.poll()
        if status is not None and status != COMPILED:
            log.warning("the stack stays as it is: compiling failed", extra={"action": "warm", "status": status})
        return None if status is None else status == COMPILED

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
