"""The compiling process (`warm.py`), controlled by the device process: started, polled, stopped."""

import json
import logging
import subprocess
import sys

from tuner.worker.channel import Json

log = logging.getLogger(__name__)

COMPILED, NOT_COMPILED = 0, 3
"""Its exit status."""


class Warming:
    """The device process's handle on the compiling process."""

    def __init__(self, wanted: Json) -> None:
        command = [sys.executable, "-P", "-m", "tuner.worker.device.warm", json.dumps(wanted)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def result(self) -> bool | None:
        """Return whether the programs are ready; None while they are being compiled."""
        status = self._process.poll()
        if status is not None and status != COMPILED:
            log.warning("compiling failed: the stack is not replaced", extra={"action": "warm", "status": status})
        return None if status is None else status == COMPILED

    def close(self) -> None:
        """Stop the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
