"""This server's link to the others: one thread that keeps the line, holds the shards, and passes news on.

While the line is down the server drives no study, and who waits is woken now and then to look (`POLL_S`): what others
change is not heard. It connects again by itself.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from api.growth import Growth
from api.hub import Hub
from api.news import ANYBODY, Outbox, read
from api.servers.shards import Shards
from storage.database import Database, DatabaseUnusable
from storage.line import Line
from tuner.complaints import Complaints

log = logging.getLogger(__name__)
CHECK_S = 0.5
"""How often to see that the line is there, and which shards are free."""
BURST_S = 0.03
"""What is said so close together is one message."""
POLL_S = 3.0
"""While others are not heard: how often who waits is woken to look."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class Link:
    """`outbox` is what this server says; `start` it when the hub knows its loop, and `close` it."""

    def __init__(
        self,
        database: Database,
        shards: Shards,
        hub: Hub,
        growth: Growth,
        outbox: Outbox,
        opened: Callable[[Database], Line] = Line,
    ) -> None:
        """`opened` connects."""
        self._database = database
        self._shards = shards
        self._hub = hub
        self._growth = growth
        self._outbox = outbox
        self._opened = opened
        self._complaints = Complaints(log)
        self._closed = threading.Event()
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        outbox.woken = self.wake

    def start(self) -> None:
        """Connect, in a thread of its own."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the outbox soon. From any thread."""
        try:
            os.write(self._waker, b".")
        except BlockingIOError:
            pass  # it has been told often enough

    def close(self) -> None:
        """Let go of the shards, so that others take them at once."""
        self._closed.set()
        self.wake()
        self._thread.join()
        os.close(self._woken)
        os.close(self._waker)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        polled_at = time.monotonic()
        while not self._closed.is_set():
            try:
                line = self._opened(self._database)
            except DatabaseUnusable as error:
                self._complaints.say("other servers are not heard", error, action="link")
                self._pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if time.monotonic() - polled_at >= POLL_S:
                    polled_at = time.monotonic()
                    self._hub.anything()
                continue
            pause_s = FIRST_PAUSE_S
            try:
                self._attend(line)
            except DatabaseUnusable as error:
                self._complaints.say("the connection to other servers was lost", error, action="link")
            finally:
                self._deafen()
                line.close()

    def _attend(self, line: Line) -> None:
        self._growth.hears()
        self._hub.hears_all = True
        self._hub.anything()
        self.wake()  # something may have been said meanwhile
        check_at = said_at = 0.0
        while not self._closed.is_set():
            now = time.monotonic()
            if now >= check_at:
                check_at = now + CHECK_S
                if self._shards.tick(line):
                    self._hub.changes.ring()
            for text in line.hear(check_at - time.monotonic(), self._woken):
                self._hear(text)
            if self._drained():
                self._pause(said_at + BURST_S - time.monotonic())
                said_at = time.monotonic()
                self._say(line)

    def _say(self, line: Line) -> None:
        news = self._outbox.take()
        try:
            for text in news.texts():
                line.tell(text)
        except DatabaseUnusable:
            self._outbox.say(studies=news.studies, grown=news.grown, work=news.work)  # by the next line
            raise

    def _deafen(self) -> None:
        self._shards.lost()
        self._growth.deaf()
        self._hub.hears_all = False
        self._hub.anything()

    def _hear(self, text: str) -> None:
        try:
            news = read(text)
        except ValueError as error:
            self._complaints.say("another server said something unknown", error, action="link")
            self._hub.anything()
            return
        self._growth.note(news.grown)
        with self._shards.acting(news.studies) as mine:
            drives = bool(mine)
        self._hub.hear(news.studies, drives=drives)
        if news.work:
            self._hub.work.ring(None if news.work == ANYBODY else news.work)

    def _drained(self) -> bool:
        """Whether somebody called `wake` since this was asked last."""
        try:
            return bool(os.read(self._woken, 65536))
        except BlockingIOError:
            return False

    def _pause(self, pause_s: float) -> None:
        self._closed.wait(max(0.0, pause_s))
