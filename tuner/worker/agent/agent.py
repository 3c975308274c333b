"""The worker's end of the sync protocol: reports what the worker holds, and starts and stops what the server asks for.

Level-triggered: every request carries the whole state, every reply the whole wanted state, so lost, repeated and late
replies are harmless. Invariants:

- A report or final message is repeated until a sync that carried it succeeds; training goes on without the server.
- One sync is in flight at a time; only the farewell may overtake a waiting one.
- Every attempt still held at the end is returned as `drained`.
"""

import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import tuner
from tuner.errors import NotAllowed, NotFound, TunerError
from tuner.study.states import StudyState
from tuner.wire.sync import Registered, Registration, SyncReply, SyncRequest
from tuner.worker import mistakes
from tuner.worker.agent.device import Device
from tuner.worker.agent.holdings import AnotherDatabase, Holdings
from tuner.worker.agent.outbox import Parcel
from tuner.worker.agent.watchdog import Watchdog
from tuner.worker.channel import Json

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How soon a signal or the parent's death is noticed."""
IDLE_WAIT_S = 25.0
"""How long an idle worker's sync may wait on the server for work: below what proxies between them allow, often 30 s."""
EMPTY_PAUSE_S = 0.1
"""Pause after a wait that the server ended early without work."""
CHILD_PATIENCE_S = 1.5
"""How long device processes may take for their last checkpoints."""
HANG_S = 300.0
"""Silence after which a device process that holds trials counts as hung: longer than the longest compilation."""
FAREWELL_S = 3.0
"""How long a drain may take, the devices' end included."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 10.0
ENDED = frozenset({StudyState.COMPLETED, StudyState.STOPPED, StudyState.FAILED})
TRIES_PER_LEASE = 3
"""Pauses between failed syncs stay so short that a worker is heard before its leases run out."""


class Server(Protocol):
    """The part of `tuner.Client` that the agent uses."""

    def register(self, registration: Registration) -> Registered:
        """Make a session known."""

    def sync(self, worker: int, request: SyncRequest) -> SyncReply:
        """Exchange states."""


@dataclass
class Call:
    """One sync under way in a thread of its own, so that a slow server never delays shutting down."""

    request: SyncRequest
    parcel: Parcel
    reply: SyncReply | None = None
    error: TunerError | None = None
    done: bool = False
    begun_s: float = field(default_factory=time.monotonic)


class Agent:
    """Runs a worker's devices for a server.

    `parent`: leave when this process is no longer our parent (its id). `session` is random for each process start.
    """

    def __init__(
        self,
        server: Server,
        devices: Sequence[Device],
        *,
        name: str,
        parent: int | None = None,
        session: str | None = None,
        hang_s: float = HANG_S,
        study: str | None = None,
    ) -> None:
        self.holdings = Holdings(devices)
        self.worker: int | None = None
        self.session = session or secrets.token_hex(16)
        self._watchdog = Watchdog(devices, self.holdings.busy, hang_s)
        self._server = server
        self._name = name
        self._parent = parent
        self._study = study
        """The only study whose trials it takes; it leaves when that has ended."""
        self._starting = True
        self._stopping = False
        self._wake = threading.Event()
        self._urgent = True
        self._next_at = 0.0
        self._not_before = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._lease_s = math.inf
        self._seq = 0
        self._database: str | None = None
        """The server's database, as it named itself when this session registered."""
        self._call: Call | None = None
        self._status = 0

    @property
    def database(self) -> str | None:
        """The server's database, as it named itself when this worker registered."""
        return self._database

    def stop(self) -> None:
        """Ask for a drain. Only sets a flag, so that a signal handler may call it at any moment."""
        self._stopping = True

    def run(self) -> int:
        """Work until `stop`; return the exit status (see `tuner.worker.run`)."""
        try:
            if self._start_devices():
                while not self._stopping:
                    self._turn()
                self._say_farewell()
        finally:
            for device in self.holdings.devices:
                device.close(0.0)
        return self._status

    def _start_devices(self) -> bool:
        """Wait until every device reports what it can do; a device that dies before that is a fatal error."""
        for device in self.holdings.devices:
            device.keep_running(self._listen)
        while not self._stopping and not self.holdings.ready:
            if self._status:
                log.error("a device process did not start; see its messages above", extra={"action": "start"})
                return False
            self._pause()
        self._starting = False
        return not self._stopping

    def _turn(self) -> None:
        for device in self.holdings.devices:
            device.keep_running(self._listen)
        self._watchdog.turn()
        if self._call is not None and self._call.done:
            call, self._call = self._call, None
            self._finish_call(call)
        now = time.monotonic()
        due = now >= self._not_before and (self._urgent or now >= self._next_at)
        if self._call is None and due and not self._stopping:
            self._urgent = False
            self._call = self._start_call(wait_s=IDLE_WAIT_S if self.holdings.idle else 0.0)
        self._pause()

    def _pause(self) -> None:
        self._wake.wait(POLL_S)
        self._wake.clear()
        if self._parent is not None and os.getppid() != self._parent:
            log.warning("the parent process is gone", extra={"action": "drain"})
            self._stopping = True

    def _listen(self, device: Device, message: Json) -> None:
        if "died" in message and self._starting:
            self._status = message["died"] if message["died"] == mistakes.STATUS else 1
        elif self.holdings.listen(device, message):
            self._urgent = True
            self._wake.set()

    def _start_call(self, wait_s: float) -> Call:
        with self.holdings.lock:
            parcel = self.holdings.outbox.parcel()
            self._seq += 1
            request = SyncRequest(
                session=self.session,
                seq=self._seq,
                capacity=[] if self._stopping else self.holdings.capacity(),
                held=self.holdings.held(parcel.finished),
                started=parcel.started,
                restarted=parcel.restarted,
                reports=parcel.reports,
                checkpointed=parcel.checkpointed,
                logs=parcel.logs,
                finished=parcel.finished,
                wait_s=wait_s,
            )
        call = Call(request, parcel)
        threading.Thread(target=self._exchange, args=(call,), name="sync", daemon=True).start()
        return call

    def _exchange(self, call: Call) -> None:
        try:
            if self.worker is None:
                registered = self._server.register(self._registration())
                if self._database not in (None, registered.database):
                    raise AnotherDatabase("the server has another database than before")
                self.worker, self._database = registered.worker, registered.database
                self._lease_s = registered.lease_s
            call.reply = self._server.sync(self.worker, call.request)
        except TunerError as error:
            call.error = error
        finally:
            call.done = True
            self._wake.set()

    def _registration(self) -> Registration:
        return Registration(
            session=self.session,
            name=self._name,
            devices=self.holdings.device_infos(),
            workloads=self.holdings.workloads(),
            version=tuner.__version__,
            study=self._study,
        )

    def _finish_call(self, call: Call) -> None:
        if call.reply is not None:
            self._apply(call, call.reply)
        elif isinstance(call.error, NotAllowed):
            log.error("the server refused this worker: %s", call.error, extra={"action": "sync"})
            self._status, self._stopping = 2, True
        elif isinstance(call.error, AnotherDatabase):
            self._start_clean(call.error)
        else:
            if isinstance(call.error, NotFound):
                self.worker = None  # another server, or one that forgot us: register again
            log.warning("no sync: %s", call.error, extra={"action": "sync", "retry_s": self._backoff_s})
            self._urgent = True
            self._not_before = time.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, LONGEST_BACKOFF_S, self._lease_s / TRIES_PER_LEASE)

    def _apply(self, call: Call, reply: SyncReply) -> None:
        self._backoff_s = FIRST_BACKOFF_S
        more = self.holdings.answered(call.parcel, call.request, time.monotonic() - call.begun_s)
        self.holdings.kept(call.parcel.checkpointed)
        try:
            freed = self.holdings.obey(reply)
        except AnotherDatabase as error:
            self._start_clean(error)
            return
        # Slots freed by a stop, and what did not fit into this request, are reported at once.
        self._urgent = self._urgent or freed or more
        if reply.leave:
            log.info("a user told this worker to leave", extra={"action": "drain"})
            self.stop()
        pause_s = EMPTY_PAUSE_S if self.holdings.idle else reply.next_sync_s
        self._next_at = time.monotonic() + pause_s
        if reply.study in ENDED and self.holdings.idle:
            log.info("the study of this worker is %s", reply.study, extra={"action": "drain", "study": self._study})
            self._stopping = True

    def _start_clean(self, error: AnotherDatabase) -> None:
        """Become a new worker: what is held here belongs to a database that is gone."""
        log.error("%s: what this worker holds is dropped", error, extra={"action": "start_clean"})
        self.holdings.start_clean("was ended since its work belongs to another database")
        self.session, self.worker, self._database, self._seq = secrets.token_hex(16), None, None, 0
        self._urgent = True

    def _say_farewell(self) -> None:
        """Return everything to the server: one last sync per parcel, until the time is up."""
        deadline = time.monotonic() + FAREWELL_S
        until = time.monotonic() + CHILD_PATIENCE_S
        for device in self.holdings.devices:
            device.hang_up()
        for device in self.holdings.devices:
            device.close(max(0.0, until - time.monotonic()))
        self.holdings.drain()
        while self.worker is not None and time.monotonic() < deadline:
            call = self._start_call(wait_s=0.0)
            _wait_until(lambda call=call: call.done, deadline)  # type: ignore[misc]
            if call.reply is None:
                log.warning("leaving without the server's acknowledgement: %s", call.error, extra={"action": "drain"})
                return
            self.holdings.answered(call.parcel, call.request, time.monotonic() - call.begun_s)
            for assignment in call.reply.assign:
                self.holdings.take(assignment)  # leased while the worker was leaving: returned at once
            if self.holdings.idle:
                return


def _wait_until(condition: Callable[[], bool], deadline: float) -> None:
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
