"""Which idle workers are there, and the last request of each: kept in memory, and stored for all of them now and then.

An idle worker's sync changes nothing but that it was seen; a write for each would take the lock from those that work.
The order of requests matters only to leases, and whoever grants one stores the request's number first. So a server that
dies forgets no more than that a worker was idle.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Presence:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, int] = {}
        self._unstored: set[int] = set()
        self._waiting: Counter[int] = Counter()

    def note(self, worker_id: int, seq: int) -> bool:
        """Note a request; False if a later one, or this one, was seen by this server."""
        with self._lock:
            newer = seq > self._last.get(worker_id, -1)
            if newer:
                self._last[worker_id] = seq
            self._unstored.add(worker_id)
            return newer

    def last(self, worker_id: int) -> int:
        """Return the number of the latest request that this server has seen, -1 if none."""
        with self._lock:
            return self._last.get(worker_id, -1)

    @contextmanager
    def waiting(self, worker_id: int) -> Iterator[None]:
        """A worker's sync waits here: it is there meanwhile."""
        with self._lock:
            self._waiting[worker_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[worker_id] -= 1
                if not self._waiting[worker_id]:
                    del self._waiting[worker_id]
                self._unstored.add(worker_id)

    def unstored(self) -> dict[int, int]:
        """Return the last request of each worker that was here since this was asked last."""
        with self._lock:
            found = {worker_id: self._last.get(worker_id, -1) for worker_id in self._unstored | set(self._waiting)}
            self._last = {worker_id: seq for worker_id, seq in found.items() if seq >= 0}  # others are stored
            self._unstored.clear()
            return found
