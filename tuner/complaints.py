"""Complaints: a failure that happens again and again takes one line, and later lines further and further apart.

Invariants: the first failure of each kind is logged at once; no kind is logged more often than its pause allows, which
doubles from line to line up to an hour; what was left out is counted in the next line. The logs may lie on the same
disk as what fails.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
MOST_KINDS = 100
Kind = tuple[str, type[BaseException], int | None]
"""What was tried, the class of the error, and the operating system's number for it."""


@dataclass
class _Told:
    quiet_until_s: float
    pause_s: float
    left_out: int = 0


class Complaints:
    """Logs failures. Thread-safe."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives steady seconds."""
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[Kind, _Told] = {}

    def say(self, what: str, error: Exception, *, traceback: bool = False, **extra: object) -> None:
        """Log that something failed, unless the same kind was logged a moment ago; `extra` is logged with it.

        With `traceback`, the first line of the kind comes with it.
        """
        kind = what, type(error), getattr(error, "errno", None)
        with self._lock:
            told, now = self._told.get(kind), self._clock()
            if told is not None and now < told.quiet_until_s:
                told.left_out += 1
                return
            if told is None and len(self._told) >= MOST_KINDS:
                self._told.clear()
            pause_s = FIRST_PAUSE_S if told is None else min(2 * told.pause_s, LONGEST_PAUSE_S)
            self._told[kind] = _Told(now + pause_s, pause_s)
        again = f" (and {told.left_out} more since the last line)" if told is not None and told.left_out else ""
        text = str(error).partition("\n")[0]
        said = what, f"{type(error).__name__}: {text}" if text else type(error).__name__, again
        self._log.warning("%s: %s%s", *said, extra=extra, exc_info=error if traceback and told is None else None)
