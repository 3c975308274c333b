"""Background tasks of the server. Each has a thread of its own; trouble in one never ends it, nor touches another."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from api.hub import Bell, first, wait
from storage.database import DatabaseUnusable

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0


class Task:
    """Does `work` again and again until the server closes: every `every_s` seconds, and whenever `bell` rings.

    Rounds begin at least `apart_s` seconds apart: a bell that rings all the time makes no more of them.

    When the work raises, that is logged, `failed` is called, and the next try waits longer each time.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        every_s: float,
        *,
        bell: Bell | None = None,
        apart_s: float = 0.0,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.work = work
        self._every_s = every_s
        self._bell = bell
        self._apart_s = apart_s
        self._failed = failed
        self.failures = 0
        """Rounds in a row that raised."""

    async def run(self, closing: asyncio.Event) -> None:
        """Run until `closing` is set; a round that is under way then is waited for."""
        with ThreadPoolExecutor(1, thread_name_prefix=self.name) as own:
            while not closing.is_set():
                begun = time.monotonic()
                ticket = self._bell.ticket() if self._bell is not None else asyncio.Event()
                try:
                    await asyncio.get_running_loop().run_in_executor(own, self.work)
                    self.failures, pause_s = 0, self._every_s
                except Exception as error:  # the task's boundary
                    if closing.is_set():
                        return
                    self.failures, ticket = self.failures + 1, asyncio.Event()
                    pause_s = min(FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10), LONGEST_PAUSE_S)
                    self._report(error, pause_s)
                await first(pause_s, ticket, closing)
                await wait(closing, begun + self._apart_s - time.monotonic())

    def _report(self, error: Exception, pause_s: float) -> None:
        extra = {"action": "task", "task": self.name, "retry_s": pause_s}
        if isinstance(error, DatabaseUnusable):
            log.error("%s", error, extra=extra)
        else:
            log.error("the task %s failed and is tried again", self.name, extra=extra, exc_info=error)
        self._failed()
