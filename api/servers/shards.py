"""Which studies a server drives where several share a database: those of the shards whose locks it holds.

- Studies are dealt into shards by their ids, and shards evenly to the servers that are there. So the cost does not grow
  with the studies, and no server has all of them.
- A shard is given up only while nobody acts on it. The lock goes with the line: who has not seen it for `FRESH_S`
  stops acting, and PostgreSQL gives the lock to another after `SILENCE_S`, which is longer.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import ceil, inf

from sqlalchemy.orm import Session

from api.servers.ownership import NotOwned
from storage import line as lines
from storage.line import SHARDS, Line

log = logging.getLogger(__name__)
FRESH_S = 2.0
"""How long a look at the line is good for."""


class Shards:
    """The shards of this server. `tick` belongs to the line's thread; everything else may be called from any.

    `clock` gives steady seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[int, float] = {}
        """By shard: when it was taken."""
        self._busy: Counter[int] = Counter()
        """By shard: how many act on it."""
        self._seen_at = -inf
        self._backend: int | None = None

    @property
    def count(self) -> int:
        """How many this server has."""
        with self._lock:
            return len(self._since)

    @contextmanager
    def acting(self, study_ids: Iterable[int], *, for_s: float = 0.0) -> Iterator[list[int]]:
        """Yield those of the studies that this server has driven for so long; they stay its own meanwhile."""
        with self._lock:
            now = self._clock()
            fresh = now - self._seen_at <= FRESH_S
            mine = [key for key in study_ids if fresh and self._since.get(key % SHARDS, inf) <= now - for_s]
            used = {key % SHARDS for key in mine}
            self._busy.update(used)
        try:
            yield mine
        finally:
            with self._lock:
                self._busy.subtract(used)

    def confirm(self, session: Session, study_ids: Iterable[int]) -> None:
        """Make sure, in a transaction that writes, that the locks of these studies are held still.

        Raises:
            NotOwned: they are not.
        """
        shards, backend = sorted({key % SHARDS for key in study_ids}), self._backend
        if shards and (backend is None or not lines.holds(session, backend=backend, shards=shards)):
            raise NotOwned("another server drives this study; this one lost its connection to the database")

    def tick(self, line: Line) -> bool:
        """See what is held, and take or give up shards until all servers have alike; whether some were taken."""
        asked_at = self._clock()
        held = line.held()
        with self._lock:
            self._backend, self._seen_at = line.backend, asked_at
            mine = sorted(self._since)
        share = ceil(SHARDS / max(1, held.servers))
        if len(mine) > share:
            self._give_up(line, _spread(mine, len(mine) - share))
        free = [shard for shard in range(SHARDS) if shard not in held.holders]
        return bool(free) and len(mine) < share and self._take(line, free[: share - len(mine)])

    def lost(self) -> None:
        """Note that the line is gone, and all locks with it."""
        with self._lock:
            self._backend, self._seen_at = None, -inf
            self._since.clear()

    def _take(self, line: Line, free: list[int]) -> bool:
        taken = line.take(free)
        with self._lock:
            self._since.update(dict.fromkeys(taken, self._clock()))
        if taken:
            log.info("drives %d more of %d shards", len(taken), SHARDS, extra={"action": "shards_taken"})
        return bool(taken)

    def _give_up(self, line: Line, wanted: list[int]) -> None:
        with self._lock:
            given = [shard for shard in wanted if not self._busy[shard]]
            for shard in given:
                del self._since[shard]
        line.give_back(given)
        log.info("gives %d of %d shards to others", len(given), SHARDS, extra={"action": "shards_given"})


def _spread(shards: list[int], count: int) -> list[int]:
    """Choose evenly: neighbours are of studies that were submitted together."""
    return [shards[(2 * i + 1) * len(shards) // (2 * count)] for i in range(count)]
