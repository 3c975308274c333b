"""The real server side of syncs and the real holdings of workers, with a bad network between them and virtual time.

Devices are doubles that train honestly: what a trial reports is worked out from the configuration that it was assigned.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session
from study_documents import study_document

from api.conductor.commands import Commands
from api.conductor.conductor import Conductor
from api.conductor.proposing import Proposing
from api.conductor.retention import Retention
from api.hub import Hub
from api.plans import Plans
from api.servers.ownership import Alone
from api.sync.expiry import Expiry
from api.sync.syncs import Syncs
from api.waits import Waits
from storage import attempts, identity, studies, trials, workers
from storage.database import Database
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.errors import Conflict, NotFound
from tuner.search.request import AskRequest
from tuner.store import open_store
from tuner.study.hyperparameter import Scalar
from tuner.study.space import Choices
from tuner.study.states import TERMINAL, StudyState, TrialState
from tuner.wire.sync import Capacity, SyncReply, SyncRequest
from tuner.worker.agent.child import DeviceProcess
from tuner.worker.agent.holdings import AnotherDatabase, Holdings
from tuner.worker.channel import Json

LEASE_S = 10.0
WIDTH = 2
MOST_STACKS = 2
"""Of a device that holds several."""
MICRO_BATCHES = {"one": 4, "two": None, "three": 2}
"""Each study has a stack of its own, the second has two."""
START = datetime(2026, 1, 1, tzinfo=UTC)
Key = tuple[int, int]


def result_of(params: dict[str, Scalar]) -> float:
    """What training with a configuration gives: any function that tells configurations apart."""
    return float(params["lr"]) * 1000 + float(params["batch_size"]) / 1000


class Device(DeviceProcess):
    """Holds assignments until the test lets them go on."""

    def __init__(self, several: bool) -> None:
        """With `several`, it holds more than one stack at a time."""
        super().__init__("cpu", WIDTH, 1, [])
        self.several = several
        self.running: dict[Key, Json] = {}
        self.pausing: set[Key] = set()
        self.killed = False

    def send(self, message: Json) -> None:
        if "assign" in message:
            self.running[message["assign"]["trial"], message["assign"]["attempt"]] = message["assign"]
        elif "stop" in message:
            self.running.pop(tuple(message["stop"]), None)
        elif "pause" in message:
            self.pausing.add(tuple(message["pause"]))
        elif "go_on" in message:
            self.pausing.discard(tuple(message["go_on"]))

    def kill(self, why: str) -> None:
        self.killed = True


class Sampler:
    """Never proposes the same twice."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def ask(self, request: AskRequest) -> list[dict[str, Scalar]]:
        sizes, draw = request.search.domains.get("batch_size"), self._draw
        return [
            dict.fromkeys(request.search.domains, 16)
            | {"lr": draw.random()}
            | ({"batch_size": draw.choice(sizes.values)} if isinstance(sizes, Choices) else {})
            for _ in request.indexes
        ]


@dataclass
class Worker:
    """One process start of a worker: its holdings, its session, and what it has sent and heard."""

    session: str
    device: Device
    holdings: Holdings
    id: int | None = None
    database: str | None = None
    seq: int = 0
    sent: list[SyncRequest] = field(default_factory=list)
    heard: list[SyncReply] = field(default_factory=list)


class World:
    """One database, a server that can be restarted, and two workers."""

    def __init__(self, database: Database, store: str) -> None:
        self.database = database
        self.now = START
        database.now = lambda session: self.now  # type: ignore[method-assign]
        self._store = store
        self._count = 0
        self.ended: dict[int, tuple[TrialState, float | None]] = {}
        self.start_server()
        self.workers = [self.new_worker(several=False), self.new_worker(several=True)]

    def start_server(self) -> None:
        """Begin with empty memory."""
        self._count += 1
        hub, plans = Hub(), Plans()
        retention = Retention(self.database, plans, open_store(self._store))
        clock = lambda: (self.now - START).total_seconds()  # noqa: E731
        self.expiry = Expiry(self.database, plans, hub, Alone(), LEASE_S, clock=clock)
        self.syncs = Syncs(self.database, plans, LEASE_S)
        self.commands = Commands(self.database, plans, hub, retention)
        sampler: Any = Sampler(self._count)
        self.proposing = proposing = Proposing(self.database, plans, hub, sampler, Alone())
        self.conductor = Conductor(
            self.database, plans, hub, proposing, self.expiry, retention, Alone(), Waits(), lease_s=LEASE_S
        )

    def conduct(self) -> None:
        """One round of every task of the conductor but the store's."""
        for task in self.conductor.tasks[:3]:
            task.work()

    def new_worker(self, *, several: bool) -> Worker:
        """Start a worker; what an earlier one held is gone with it."""
        self._count += 1
        device = Device(several)
        worker = Worker(f"session-{self._count:08d}", device, Holdings([device], clock=lambda: 0.0))
        self.hello(worker)
        return worker

    def hello(self, worker: Worker) -> None:
        """Start the device process."""
        worker.device.running.clear()
        worker.device.pausing.clear()
        worker.device.killed = False
        hello = {"workloads": [{"name": "digits-mlp", "description": ""}], "description": ""}
        worker.holdings.listen(worker.device, {"hello": hello})

    def submit(self, name: str, run_cap: int) -> None:
        try:
            sizes = {"batch_size": {"values": [16, 64]}}
            document = study_document(
                name=name, run_cap=run_cap, parallel=6, micro_batch=MICRO_BATCHES[name], parameters=sizes
            )
            self.commands.submit(document, idempotency_key=None)
        except Conflict:
            pass  # the name is taken

    def command(self, what: str, name: str, of: StudyState | None = None) -> None:
        """Do something to a study, if there is one (in a state) and it may be done; what goes on may end again."""
        try:
            with self.database.read() as session:
                study = studies.get(session, name)
            if of in (None, study.state):
                getattr(self.commands, what)(name)
        except (NotFound, Conflict):
            return
        self.forget_reopened()

    def retry(self, name: str, number: int) -> None:
        """Try a trial again, if it may be."""
        try:
            self.commands.retry_trial(name, number)
        except (NotFound, Conflict):
            return
        self.forget_reopened()

    def forget_reopened(self) -> None:
        """What a user has had tried again may end in another way."""
        for trial in self.trials():
            if trial.state not in TERMINAL:
                self.ended.pop(trial.id, None)

    def request(self, worker: Worker) -> SyncRequest:
        """State what is, as the agent does."""
        worker.seq += 1
        parcel, holdings = worker.holdings.outbox.parcel(), worker.holdings
        return SyncRequest(
            session=worker.session,
            seq=worker.seq,
            capacity=self.capacity(worker),
            held=holdings.held(parcel.finished),
            started=parcel.started,
            restarted=parcel.restarted,
            reports=parcel.reports,
            checkpointed=parcel.checkpointed,
            finished=parcel.finished,
        )

    def capacity(self, worker: Worker) -> list[Capacity]:
        """State what a device can take: for each of its stacks, and for one more if it can open one."""
        if not worker.device.several or worker.device.killed:
            stacks = {assigned["stack"]: WIDTH for assigned in worker.device.running.values()}
            worker.holdings.listen(worker.device, {"stacks": stacks, "opens": not stacks})
            return worker.holdings.capacity()
        held = Counter(assigned["stack"] for assigned in worker.device.running.values())
        entries = [Capacity(device="cpu", stack=stack, free=WIDTH - count) for stack, count in held.items()]
        return entries + [Capacity(device="cpu", free=WIDTH)] * (len(held) < MOST_STACKS)

    def sync(self, worker: Worker, *, arrives: bool = True, answered: bool = True) -> None:
        """One exchange, of which the request or the reply may be lost."""
        if worker.id is None and not self._register(worker):
            return
        parcel, request = worker.holdings.outbox.parcel(), self.request(worker)
        worker.sent.append(request)
        reply = self.serve(worker, request) if arrives else None
        if reply is None or not answered:
            return
        worker.heard.append(reply)
        worker.holdings.answered(parcel, request, 0.0)
        self.obey(worker, reply)

    def serve(self, worker: Worker, request: SyncRequest) -> SyncReply | None:
        assert worker.id is not None
        try:
            return self.syncs.apply(worker.id, request).reply
        except NotFound:
            worker.id = None
            return None

    def obey(self, worker: Worker, reply: SyncReply) -> None:
        try:
            worker.holdings.obey(reply)
        except AnotherDatabase:
            self._start_clean(worker)

    def end(self, worker: Worker, key: Key, outcome: str) -> None:
        """Let a trial of the device end; the value is that of what was really trained."""
        assigned = worker.device.running.pop(key)
        value = result_of(assigned["params"])
        row = {"trial": key[0], "attempt": key[1], "step": 9, "examples": 144, "elapsed_s": 1.0, "noise": None}
        if outcome == "finished":
            worker.holdings.listen(worker.device, {"row": {**row, "metrics": {"valid_loss": value}}})
        ended = {"trial": key[0], "attempt": key[1], "outcome": outcome, "infeasible": None, "error": None}
        worker.holdings.listen(worker.device, {"ended": {**ended, "step": 9, "examples": 144}})

    def leave(self, worker: Worker) -> None:
        """Let the trials leave that are to be paused and are still there."""
        for key in worker.device.pausing & worker.device.running.keys():
            self.end(worker, key, "paused")
        worker.device.pausing.clear()

    def crash(self, worker: Worker) -> None:
        """Kill the device process, and start the next one."""
        worker.holdings.listen(worker.device, {"died": -9})
        self.hello(worker)

    def trials(self) -> list[TrialRecord]:
        with self.database.read() as session:
            return [trial for study in _all(session) for trial in trials.of_study(session, study_id=study.id)]

    def check(self) -> None:
        """What must hold at every moment."""
        found = self.trials()
        for trial in found:
            if trial.state == TrialState.COMPLETED:
                assert trial.value == result_of(trial.params), "the result is not that of the trial's configuration"
            now = trial.state, trial.value
            if trial.state in TERMINAL:
                assert self.ended.setdefault(trial.id, now) == now, "a trial ends once, unless it is tried again"
            else:
                assert trial.id not in self.ended, "what has ended does not go on"
        with self.database.read() as session:
            for study in _all(session):
                numbers = [trial.number for trial in found if trial.study_id == study.id]
                assert numbers == list(range(study.trials_created)) and len(numbers) <= study.run_cap
            leases = attempts.leases(session)
            live = [(attempt.trial_id, attempt.attempt) for attempt, _ in leases]
            current = {trial.id: trial for trial in found}
            assert all(current[trial_id].attempt == attempt for trial_id, attempt in live), "the fence is the newest"
            for worker in self.workers:
                own = Counter(trial.stack for attempt, trial in leases if attempt.worker_id == worker.id)
                most = MOST_STACKS if worker.device.several else 1
                assert len(own) <= most, "a device has no more stacks than it can hold"
                assert not worker.device.several or all(count <= WIDTH for count in own.values()), "nor slots"

    def settle(self) -> None:
        """With a good network and honest workers every study ends, and no lease is left; paused ones go on first."""
        for name in MICRO_BATCHES:
            self.command("resume", name, of=StudyState.PAUSED)
        for _ in range(60):
            self.now += timedelta(seconds=1)
            self.conduct()
            for worker in self.workers:
                if worker.device.killed:
                    self.crash(worker)
                self.sync(worker)
                self.leave(worker)
                for key in list(worker.device.running):
                    self.end(worker, key, "finished")
                self.sync(worker)
            self.check()
            if self._at_rest():
                return
        raise AssertionError(f"still running: {self._open()}")

    def _at_rest(self) -> bool:
        """Whether all studies have ended, and every trial of theirs."""
        with self.database.read() as session:
            return not attempts.leases(session) and not self._open() and all(t.state in TERMINAL for t in self.trials())

    def _open(self) -> list[tuple[str, dict[str, int]]]:
        with self.database.read() as session:
            running = _all(session, StudyState.RUNNING)
            progress = studies.progress(session, study_ids=[study.id for study in running])
        return [(study.name, progress[study.id].counts if study.id in progress else {}) for study in running]

    def _register(self, worker: Worker) -> bool:
        with self.database.write() as session:
            worker.id = workers.register(
                session,
                worker_session=worker.session,
                name="w",
                devices=[device.model_dump() for device in worker.holdings.device_infos()],
                workloads=[{"name": "digits-mlp"}],
                version="",
                now=self.now,
            )
            database = identity.token(session)
        if worker.database not in (None, database):
            self._start_clean(worker)
            return False
        worker.database = database
        return True

    def _start_clean(self, worker: Worker) -> None:
        self._count += 1
        worker.holdings.start_clean("another database")
        worker.session, worker.id, worker.database, worker.seq = f"session-{self._count:08d}", None, None, 0
        worker.sent.clear()
        worker.heard.clear()


def describe(world: World) -> dict[str, Any]:
    """For a failing example: where everything stands."""
    return {"trials": [(t.id, t.number, t.state, t.attempt) for t in world.trials()], "open": world._open()}


def _all(session: Session, state: StudyState | None = None) -> list[StudyRecord]:
    places = studies.places(session, state=state, limit=200)
    return list(studies.by_ids(session, ids=[place.id for place in places]).values())
