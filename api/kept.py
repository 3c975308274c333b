"""Values that are worked out once per version of a study and shared by all who ask.

- One computation at a time per value, however many wait for it (single flight).
- While a study runs, a value that was dear to work out is worked out again only after `PAUSE` times its cost: until
  then who asks gets the one before, and is told for how long. A cheap one, one of a study that has ended, and one that
  is asked for exactly are never behind.
- What is kept is bounded: what was asked for least lately is dropped, and everything of a deleted study.

Everything here runs on the event loop, but for the work itself.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from api.pools import Pool

PAUSE = 20.0
LONGEST_PAUSE_S = 10.0
CHEAP_S = 0.005
"""Work of less CPU time is done whenever it is asked for."""
MOST_BYTES = 64 * 2**20


class Version(NamedTuple):
    """What a value was made from: a study's revision, and how often its curves had grown."""

    revision: int
    growth: int = 0

    def covers(self, other: "Version") -> bool:
        """Whether nothing happened after this one that `other` has seen."""
        return self.revision >= other.revision and self.growth >= other.growth


class Sized(Protocol):
    """A value that knows how much memory it takes."""

    @property
    def bytes(self) -> int:
        """About how many."""


V = TypeVar("V", bound=Sized)
Key = tuple[int, str]
"""(study id, what)."""


@dataclass(frozen=True)
class Made(Generic[V]):
    """A value with its version and the CPU seconds that it cost."""

    value: V
    version: Version
    cost_s: float


@dataclass
class _Entry(Generic[V]):
    made: Made[V]
    next_at: float
    """When it may be worked out again."""


@dataclass(frozen=True)
class Shown(Generic[V]):
    """A value for a reader. It is behind the study by something for `behind_s` more seconds; 0 if it is not."""

    value: V
    behind_s: float = 0.0


class Kept(Generic[V]):
    """Keeps values by (study id, what). `clock` returns steady seconds."""

    def __init__(
        self, most_bytes: int = MOST_BYTES, pause: float = PAUSE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most_bytes
        self._pause = pause
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry[V]] = OrderedDict()
        self._flights: dict[Key, tuple[Version, asyncio.Task[Made[V]]]] = {}
        self._bytes = 0

    async def get(
        self, key: Key, version: Version, work: Callable[[], tuple[V, Version]], pool: Pool, *, exact: bool
    ) -> Shown[V]:
        """Return the value of a version or of a later one; unless `exact`, of an earlier one where that is dear.

        `work` runs in the pool and returns the value with the version that it was made from.
        """
        while True:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                behind_s = entry.next_at - self._clock()
                if entry.made.version.covers(version):
                    return Shown(entry.made.value)
                if not exact and behind_s > 0:
                    return Shown(entry.made.value, behind_s)
            flight = self._flights.get(key)
            if flight is not None and not flight[0].covers(version):
                await asyncio.wait([flight[1]])  # it may have begun too early for this reader
                continue
            task = flight[1] if flight is not None else self._start(key, version, work, pool)
            made = await asyncio.shield(task)  # others may wait for it too
            return Shown(made.value)

    def forget(self, study_id: int) -> None:
        """Drop everything of a study."""
        for key in [key for key in self._entries if key[0] == study_id]:
            self._drop(key)

    def _start(
        self, key: Key, version: Version, work: Callable[[], tuple[V, Version]], pool: Pool
    ) -> asyncio.Task[Made[V]]:
        task = asyncio.create_task(self._fly(key, work, pool))
        self._flights[key] = version, task
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the readers may all be gone
        return task

    async def _fly(self, key: Key, work: Callable[[], tuple[V, Version]], pool: Pool) -> Made[V]:
        try:
            made = await pool.run(_timed, work)
            self._keep(key, made)
            return made
        finally:
            del self._flights[key]

    def _keep(self, key: Key, made: Made[V]) -> None:
        pause_s = 0.0 if made.cost_s < CHEAP_S else min(self._pause * made.cost_s, LONGEST_PAUSE_S)
        if key in self._entries:
            self._drop(key)
        self._entries[key] = _Entry(made, self._clock() + pause_s)
        self._bytes += made.value.bytes
        while self._bytes > self._most and len(self._entries) > 1:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        self._bytes -= self._entries.pop(key).made.value.bytes


def _timed(work: Callable[[], tuple[V, Version]]) -> Made[V]:
    begun = time.thread_time()
    value, version = work()
    return Made(value, version, time.thread_time() - begun)
