"""Terminates a device process that holds trials but has stopped ticking.

A device process sends a message every few seconds as long as its tick loop is running. Only time in which the agent
itself was awake counts as silence, so that a suspended machine or a stopped agent does not count as a hang.
"""

import logging
import time
from collections.abc import Callable, Sequence

from tuner.worker.agent.device import Device

log = logging.getLogger(__name__)

LONGEST_TURN_S = 1.0
"""The most that one iteration adds to the silence."""


class Watchdog:
    """Terminates device processes that are silent for `hang_s` seconds while `busy` reports that they hold trials."""

    def __init__(self, devices: Sequence[Device], busy: Callable[[Device], bool], hang_s: float) -> None:
        self._devices = list(devices)
        self._busy = busy
        self._hang_s = hang_s
        self._silent_s = {device.device: 0.0 for device in devices}
        self._heard = {device.device: -1 for device in devices}
        self._turned_at = time.monotonic()

    def turn(self) -> None:
        """Check every device; call this a few times a second."""
        now = time.monotonic()
        passed_s, self._turned_at = min(now - self._turned_at, LONGEST_TURN_S), now
        for device in self._devices:
            name, heard = device.device, device.heard
            awake = heard != self._heard[name] or not self._busy(device)
            self._heard[name] = heard
            self._silent_s[name] = 0.0 if awake else self._silent_s[name] + passed_s
            if self._silent_s[name] >= self._hang_s:
                self._silent_s[name] = 0.0
                log.error(
                    "a device process stopped ticking and is terminated",
                    extra={"action": "hang", "device": name, "silent_s": self._hang_s},
                )
                device.kill(f"did not tick for {self._hang_s:g} s and was terminated")
