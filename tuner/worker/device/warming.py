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
        self._said = False

    @property
    def running(self) -> bool:
        """Whether it is at work; one line in the log says when it failed."""
        status = self._process.poll()
        if status not in (None, COMPILED) and not self._said:
            self._said = True
            log.warning("compiling failed: trials go on uncompiled", extra={"action": "warm", "status": status})
        return status is None

    def close(self) -> None:
        """Stop the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
