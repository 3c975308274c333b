"""Threads, by kind of work. Each kind has its own, so that none waits for another: a slow figure delays no sync.

Handlers run on the event loop; whatever asks the database or computes runs in one of these pools. Their sizes add up
to no more than the database's connections, with those of the conductor and of handlers that FastAPI runs itself.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PLAIN = 4
"""Threads for handlers that are no coroutines."""


class Pool:
    """At most `threads` pieces of work at a time; the others wait in order."""

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work in a thread of the pool, in the caller's context (who asks); what it raises is raised here."""
        called = partial(copy_context().run, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, called)

    def close(self) -> None:
        """Take no more work; what waits is dropped."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Pools:
    """One pool per kind of work."""

    def __init__(self) -> None:
        self.syncs = Pool("sync", 12)
        self.reads = Pool("read", 8)
        """Short queries."""
        self.results = Pool("result", 4)
        """Figures and advice, which take long in a large study. Those of one study wait for each other."""
        self.streams = Pool("stream", 2)
        self.commands = Pool("command", 4)

    def close(self) -> None:
        """Close all of them."""
        for pool in (self.syncs, self.reads, self.results, self.streams, self.commands):
            pool.close()
