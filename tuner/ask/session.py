"""The sync protocol of one slot, spoken in the background of a user's own loop.

- One thread syncs: once a second while a trial is held (which renews its lease), at most ten times a second while the
  loop reports, and at once when the loop asks for a trial. The loop itself never waits for the network, but for its
  next trial.
- While the server is away the loop goes on; what it reports is kept and repeated until it is acknowledged.
- Only the process that opened a session may use it: a fork has its memory and not its thread.
"""

import atexit
import logging
import math
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tuner.ask.curve import Curve, Row
from tuner.ask.stay import Key, Stay
from tuner.errors import InvalidInput, NotAllowed, NotFound, TunerError
from tuner.study.states import StudyState
from tuner.wire.asking import Asked, Asking
from tuner.wire.sync import Assignment, Capacity, Held, Stop, SyncReply, SyncRequest

log = logging.getLogger(__name__)

DEVICE = "own"
"""The name of a session's only slot."""
IDLE_WAIT_S = 25.0
"""How long a sync may wait on the server for a trial."""
LAST_WORD_S = 0.05
"""How long a trial's last word waits for the loop to ask for the next one, in the same request."""
APART_S = 0.1
"""Syncs with reports are at least so far apart."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 10.0
TRIES_PER_LEASE = 3
MOST_REPORTS = 10_000
PATIENCE_S = 30.0
"""How long the end of a loop waits for the server to take its last words."""
ENDED = frozenset({StudyState.COMPLETED, StudyState.STOPPED, StudyState.FAILED})


class Closed(TunerError):
    """The client was closed while a loop of it was running."""


FINAL = (NotFound, NotAllowed, InvalidInput, Closed)
"""Errors that do not pass."""


class Server(Protocol):
    """The part of `tuner.Client` that a session uses."""

    def open_session(self, study: str | int, asking: Asking) -> Asked:
        """Open a session of one slot that takes trials of one study."""

    def sync(self, worker: int, request: SyncRequest) -> SyncReply:
        """Exchange states."""


@dataclass(frozen=True)
class Parcel:
    """What a request carries, to be dropped when it is acknowledged."""

    request: SyncRequest
    rows: dict[Key, list[Row]]
    obeyed: frozenset[Key]


class Session:
    """One slot for the trials of a study. Methods may be called from any thread of the process that opened it."""

    def __init__(self, server: Server, study: str | int, name: str = "") -> None:
        """Open the session. Raises the errors of `tuner.errors`: there is no such study, no server, ..."""
        self._server = server
        self._study = study
        self._name = name
        self._session = secrets.token_hex(16)
        self._asked = self._open()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._stays: dict[Key, Stay] = {}
        self._wants = False
        self._study_ended = False
        self._error: TunerError | None = None
        self._seq = 0
        self._applied = 0
        self._closing = False
        self._work = threading.Condition(self._lock)
        self._sleeps_until = -math.inf
        """When the thread looks again by itself."""
        self._urgent = False
        self._next_at = self._not_before = self._sent_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._complained = False
        self._thread: threading.Thread | None = None
        self._waits = False
        """Whether a sync waits on the server for a trial that nobody wants any more."""

    @property
    def database(self) -> str:
        """The server's database: what tells its trials from those of any other."""
        return self._asked.database

    def here(self) -> bool:
        """Whether this is the process that opened the session."""
        return os.getpid() == self._pid

    def check_here(self) -> None:
        """Raise `TunerError` in a forked process."""
        if not self.here():
            raise TunerError(
                f"this trial belongs to process {self._pid}, and this is {os.getpid()}: a forked process cannot report "
                "for it; give it `dict(trial.params)`, and report from the process that asked"
            )

    # The loop's side

    def next(self) -> Stay | None:
        """Wait for a trial; None when the study has ended. Raises what the server answers, e.g. `NotFound`."""
        self.check_here()
        with self._news:
            self._begin()
            self._wants = self._urgent = True
            self._work.notify()
            while (stay := self._held()) is None and not self._study_ended and self._error is None:
                self._news.wait(1.0)
            self._wants = False
            if stay is None and self._error is not None:
                raise self._error
            return stay

    def update(self, stay: Stay, change: Callable[[], None]) -> None:
        """Change what is held of an attempt, and have the server told soon."""
        with self._lock:
            change()
            if stay.over:
                self._next_at = min(self._next_at, time.monotonic() + LAST_WORD_S)
            if self._due_at() < self._sleeps_until:
                self._work.notify()

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Tell the server all that is left to say, and end. What is still held goes back to the queue."""
        if not self.here() or self._closing:
            return
        with self._lock:
            self._closing, self._wants = True, False
            for stay in self._stays.values():
                if not stay.over:
                    stay.end("drained")
            self._work.notify()
        atexit.unregister(self._at_exit)
        self._say_farewell(time.monotonic() + patience_s)

    def _held(self) -> Stay | None:
        return next((stay for stay in self._stays.values() if not stay.over), None)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tuner-ask", daemon=True)
            self._thread.start()
            atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        """End with the process; what is held then has failed by the exception that ended it, or goes back."""
        error = getattr(sys, "last_value", None)
        if self.here() and isinstance(error, Exception):
            with self._lock:
                for stay in self._stays.values():
                    if not stay.over:
                        stay.end("error", error="".join(traceback.format_exception(error)), final=True)
        self.close()

    # The thread's side

    def _run(self) -> None:
        try:
            while self._wait_until_due():
                self._exchange()
        except Exception as error:  # the session's boundary: a loop must not wait for a thread that is gone
            log.exception("the thread of a loop failed", extra={"action": "sync", "study": self._study})
            with self._news:
                self._give_up(TunerError(f"the thread of this loop failed: {type(error).__name__}: {error}"))
                self._news.notify_all()

    def _wait_until_due(self) -> bool:
        """Wait until there is something to say or to ask; False when the session is over."""
        with self._work:
            while not self._closing and self._error is None:
                self._sleeps_until = self._due_at()
                left = self._sleeps_until - time.monotonic()
                if left <= 0:
                    self._sleeps_until = -math.inf
                    return True
                self._work.wait(min(left, IDLE_WAIT_S))
        return False

    def _due_at(self) -> float:
        with self._lock:
            if self._urgent:
                return self._not_before
            if not self._stays and not self._wants:
                return math.inf  # nothing to say, and nothing to hear
            if any(stay.curve.ready(1) for stay in self._stays.values()):
                return max(self._not_before, self._sent_at + APART_S)
            return max(self._not_before, self._next_at)

    def _exchange(self) -> None:
        parcel = self._parcel(waits=True)
        try:
            reply = self._sync(parcel.request)
        except TunerError as error:
            with self._news:
                if not self._closing:
                    self._failed(error)
                self._news.notify_all()
            return
        with self._news:
            self._waits = False
            self._apply(parcel, reply)
            self._news.notify_all()

    def _sync(self, request: SyncRequest) -> SyncReply:
        try:
            return self._server.sync(self._asked.worker, request)
        except RuntimeError as error:
            raise Closed(f"the client of this loop was closed before the loop: {error}") from error

    def _parcel(self, *, waits: bool) -> Parcel:
        """State what is, and say what the server has not acknowledged."""
        with self._lock:
            self._urgent, self._sent_at = False, time.monotonic()
            self._seq += 1
            rows: dict[Key, list[Row]] = {}
            room = MOST_REPORTS
            for key, stay in self._stays.items():
                rows[key] = stay.curve.ready(room)
                room -= len(rows[key])
            finished = [s.finish for k, s in self._stays.items() if s.finish and len(rows[k]) == len(s.curve)]
            saying = {(word.trial, word.attempt) for word in finished}
            # Reports count while the attempt is held, so that it is let go of when all have arrived.
            obeyed = frozenset(key for key, stay in self._stays.items() if stay.obeyed and not len(stay.curve))
            free = self._wants and self._held() is None and not self._closing
            quiet = not self._stays
            request = SyncRequest(
                session=self._session,
                seq=self._seq,
                capacity=[Capacity(device=DEVICE, free=int(free))] if not self._closing else [],
                held=[
                    Held(trial=key[0], attempt=key[1], token=stay.assignment.token)
                    for key, stay in self._stays.items()
                    if key not in saying and key not in obeyed
                ],
                started=[word for stay in self._stays.values() for word in stay.start()],
                reports=[report for key, own in rows.items() for report in self._stays[key].reports(own)],
                finished=finished,
                wait_s=IDLE_WAIT_S if waits and free and quiet else 0.0,
            )
            self._waits = self._waits or request.wait_s > 0
            return Parcel(request, rows, obeyed)

    def _apply(self, parcel: Parcel, reply: SyncReply) -> None:
        if parcel.request.seq <= self._applied:
            return  # a later one was answered before
        self._applied = parcel.request.seq
        self._backoff_s, self._not_before, self._complained = FIRST_BACKOFF_S, 0.0, False
        for key, stay in self._stays.items():
            stay.curve.acknowledge(parcel.rows.get(key, ()))
        for word in parcel.request.started:
            if (word.trial, word.attempt) in self._stays:
                self._stays[word.trial, word.attempt].started = True
        for key in (*((word.trial, word.attempt) for word in parcel.request.finished), *parcel.obeyed):
            self._stays.pop(key, None)
        self._urgent = self._urgent or any(stay.over for stay in self._stays.values())
        told = {(stop.trial, stop.attempt): stop for stop in reply.stop}
        for key, stay in self._stays.items():
            stay.stop = told.get(key)
            if reply.leave and stay.stop is None:
                trial, attempt = key
                stay.stop = Stop(trial=trial, attempt=attempt, order="pause", why="this loop was told to leave")
        for assignment in reply.assign:
            self._take(assignment)
        self._study_ended = (reply.study in ENDED or reply.leave) and self._held() is None
        self._next_at = time.monotonic() + min(reply.next_sync_s, reply.lease_s / TRIES_PER_LEASE)
        if self._wants and self._held() is None and not self._study_ended:
            self._next_at = time.monotonic() + (APART_S if parcel.request.wait_s else 0.0)

    def _take(self, assignment: Assignment) -> None:
        """Hold a new trial, if the loop waits for one; else give it back."""
        key = assignment.trial, assignment.attempt
        if key in self._stays:
            return
        best = {"minimize": "min", "maximize": "max"}[assignment.goal] if assignment.at == "best" else None
        stay = self._stays[key] = Stay(assignment, Curve(assignment.metric, best))
        if not self._wants or self._closing:
            stay.end("drained")
            self._urgent = True

    def _failed(self, error: TunerError) -> None:
        """Retry what may work later; what never will ends the session."""
        if isinstance(error, NotFound):
            try:
                self._reopen()
                return
            except TunerError as worse:
                error = worse
        if isinstance(error, FINAL):
            self._give_up(error)
            return
        if not self._complained:
            log.warning("no sync, trying again: %s", error, extra={"action": "sync", "study": self._study})
        self._complained = self._urgent = True
        self._not_before = time.monotonic() + self._backoff_s
        most = self._asked.lease_s / TRIES_PER_LEASE
        self._backoff_s = min(2 * self._backoff_s, LONGEST_BACKOFF_S, most)

    def _give_up(self, error: TunerError) -> None:
        log.error("the server refused this loop: %s", error, extra={"action": "sync", "study": self._study})
        self._error = error
        for (trial, attempt), stay in self._stays.items():
            stay.stop = Stop(trial=trial, attempt=attempt, order="fenced", why=str(error))

    def _open(self) -> Asked:
        return self._server.open_session(self._study, Asking(session=self._session, name=self._name))

    def _reopen(self) -> None:
        """Make the session known again; what was held of another database is nobody's any more."""
        asked = self._open()
        if asked.database != self._asked.database:
            why = "the server has another database than before"
            log.error("%s: what this loop holds does not count", why, extra={"action": "start_clean"})
            for (trial, attempt), stay in self._stays.items():
                stay.stop, stay.finish = Stop(trial=trial, attempt=attempt, order="fenced", why=why), None
                stay.obeyed = True
            self._stays.clear()
        self._asked, self._urgent = asked, True

    def _say_farewell(self, deadline: float) -> None:
        while self._stays or self._waits:
            parcel = self._parcel(waits=False)
            try:
                reply = self._sync(parcel.request)
            except TunerError as error:
                final = isinstance(error, FINAL) or self._error is not None
                if final or time.monotonic() >= deadline:
                    log.error("leaving without the server's acknowledgement: %s", error, extra={"action": "drain"})
                    return
                time.sleep(FIRST_BACKOFF_S)
                continue
            with self._lock:
                self._apply(parcel, reply)
                if not self._stays:
                    return
