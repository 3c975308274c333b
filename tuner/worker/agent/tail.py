"""The end of what a process prints: read as it comes, passed on, and the last of it kept.

A process that prints much is read as fast as it prints, so it neither waits nor fills memory.
"""

import os
import select
import threading
import time
from collections.abc import Callable

MOST_BYTES = 65_536
"""What is kept."""
CHUNK = 65_536
LOOK_S = 0.001
SETTLE_S = 0.5
"""How long what was printed may take to be read."""


class Tail:
    """The last `MOST_BYTES` of a stream. `pass_on` is given all of it. Thread-safe."""

    def __init__(self, pass_on: Callable[[bytes], None] = lambda data: None) -> None:
        self._pass_on = pass_on
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._written = 0
        self._quiet = threading.Event()
        self._quiet.set()
        self._stream: int | None = None
        """What is read, while it is open."""

    @property
    def written(self) -> int:
        """Bytes that came in all."""
        with self._lock:
            return self._written

    def add(self, data: bytes) -> None:
        """Take what was printed."""
        with self._lock:
            self._written += len(data)
            self._kept += data
            del self._kept[:-MOST_BYTES]
        self._pass_on(data)

    def text(self) -> str:
        """Return what is kept; a character that was cut, or is none, is replaced."""
        with self._lock:
            return bytes(self._kept).decode("utf-8", "replace")

    def follow(self, stream: int) -> threading.Thread:
        """Read a stream in a thread of its own until it ends, and close it."""
        self._quiet.clear()
        self._stream = stream
        thread = threading.Thread(target=self._read, args=(stream,), name="output", daemon=True)
        thread.start()
        return thread

    def settle(self, patience_s: float = SETTLE_S) -> None:
        """Wait until all that was printed before has been read.

        What waits in the pipe is looked at first: the reader is quiet until it wakes up to read it.
        """
        until = time.monotonic() + patience_s
        while (left := until - time.monotonic()) > 0:
            stream = self._stream
            if stream is not None and _readable(stream, 0):
                time.sleep(min(left, LOOK_S))
            elif self._quiet.wait(left):
                return

    def _read(self, stream: int) -> None:
        try:
            while True:
                if not _readable(stream, 0):
                    self._quiet.set()
                    _readable(stream, None)
                    self._quiet.clear()
                data = os.read(stream, CHUNK)
                if not data:
                    return
                self.add(data)
        except OSError:
            return
        finally:
            self._stream = None
            self._quiet.set()
            os.close(stream)


def _readable(stream: int, timeout_ms: int | None) -> bool:
    """Whether a stream has something to read, or has ended. `select` would take no file number above 1023."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(timeout_ms))
