"""A freed slot is refilled in the next tick, and assignments kept ahead leave no slot idle while a sync is under way.

Time is counted in ticks, so that nothing here depends on the machine.
"""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_worker import TickedDevice
from worker_doubles import assignment

from tuner import workloads
from tuner.engine import Stack
from tuner.probe.choice import Cell, cpu, key, learn
from tuner.wire.sync import Assignment, SyncReply, SyncRequest
from tuner.worker.agent.ahead import Ahead
from tuner.worker.agent.holdings import Holdings
from tuner.worker.agent.outbox import Parcel
from tuner.worker.device.loading import shapes_of

WIDTH = 8
SHAPES = shapes_of(workloads.load("digits-mlp", {}))


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    learn(
        key("digits-mlp", {}, 32, cpu()), Cell("loop", 1, 1.0), Cell("eager", WIDTH, 1e-3), model=SHAPES
    )  # no look before
    yield
    torch.set_num_threads(before)


class SlowServer:
    """Grants trials of one study, `parallel` at a time, and answers so many ticks after it was asked."""

    def __init__(self, work: list[Assignment], parallel: int) -> None:
        self.waiting = deque(work)
        self.parallel = parallel
        self.live: dict[tuple[int, int], Assignment] = {}

    def answer(self, request: SyncRequest) -> SyncReply:
        for finish in request.finished:
            self.live.pop((finish.trial, finish.attempt), None)
        held = {(one.trial, one.attempt) for one in request.held}
        room = min(max(entry.free for entry in request.capacity), self.parallel - len(self.live))
        for one in [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]:
            self.live[one.trial, one.attempt] = one
        wanted = [one for key, one in self.live.items() if key not in held]
        return SyncReply(assign=wanted, lease_s=30, next_sync_s=1.0)


@pytest.fixture
def occupied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The taken slots of every tick."""
    found: list[int] = []
    real = Stack.tick

    def watched(stack: Stack) -> Any:
        found.append(stack.width - stack.free)
        return real(stack)

    monkeypatch.setattr(Stack, "tick", watched)
    return found


def run_study(work: list[Assignment], occupied: list[int], *, parallel: int, round_trip: int) -> tuple[float, int]:
    """Train all of it with syncs that last `round_trip` ticks, one at a time.

    Returns the share of slots in use while the server had trials that could have filled them, and the ticks made.
    """
    device, server = TickedDevice(WIDTH), SlowServer(work, parallel)
    holdings = Holdings([device], clock=lambda: device.now_s)
    device.listen = holdings.listen  # type: ignore[assignment]
    holdings.listen(device, {"hello": {"workloads": [], "description": ""}})
    seats: list[int] = []
    under_way: tuple[Parcel, SyncRequest, SyncReply, float] | None = None
    while server.waiting or server.live or not holdings.idle:
        if under_way is None:
            parcel = holdings.outbox.parcel()
            held, capacity = holdings.held(parcel.finished), holdings.capacity()
            request = SyncRequest(session="s", seq=0, capacity=capacity, held=held, finished=parcel.finished)
            under_way = parcel, request, server.answer(request), device.now_s
        before = len(occupied)
        device.tick()
        seats += occupied[before:] if server.waiting else []
        if device.now_s >= under_way[3] + round_trip:
            holdings.answered(under_way[0], under_way[1], device.now_s - under_way[3])
            holdings.obey(under_way[2])
            under_way = None
        assert device.now_s < 10_000
    return sum(seats) / (len(seats) * min(WIDTH, parallel)), int(device.now_s)


def many_short_trials(count: int) -> list[Assignment]:
    """Trials of 8 to 24 ticks."""
    lengths = random.Random(0)
    return [
        assignment(n, examples=32 * lengths.randint(8, 24), micro_batch=32, params={**SGD, "batch_size": 32})
        for n in range(count)
    ]


SGD = {"optimizer": "sgd", "lr": 0.01}


def test_a_freed_slot_is_refilled_in_the_next_tick(occupied: list[int]) -> None:
    """As long as an assignment is at hand no tick runs with an empty slot."""
    device = TickedDevice(WIDTH)
    for one in many_short_trials(24):
        device.runner.assign(one.model_dump())
    device.tick()  # loads the workload
    waiting = []
    while device.runner.busy:
        device.tick()
        waiting.append(len(device.runner._backlog))
    assert len(waiting) == len(occupied) > 30 and waiting[0] == 24 - WIDTH
    assert all(seats == WIDTH for seats, left in zip(occupied, waiting, strict=True) if left)


def test_slots_do_not_idle_while_a_sync_is_under_way(occupied: list[int]) -> None:
    """Without assignments ahead such a study leaves slots idle: the measurement can tell the two apart."""
    kept, _ = run_study(many_short_trials(120), occupied, parallel=64, round_trip=5)
    assert kept >= 0.95
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ahead, "count", lambda ahead, width: 0)
        starved, _ = run_study(many_short_trials(40), occupied, parallel=64, round_trip=5)
    assert starved < 0.8


def test_parallel_bounds_what_is_in_flight(occupied: list[int]) -> None:
    """Of a study that may have three trials at a time none is kept ahead."""
    work = many_short_trials(20)
    utilisation, ticks = run_study(work, occupied, parallel=3, round_trip=2)
    lengths = [one.examples // 32 for one in work]
    assert ticks >= sum(lengths) / 3
    assert 0.7 < utilisation < 0.95  # each end costs its slot one to two round trips: nothing may be ahead
