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

from tuner.engine import Stack
from tuner.wire.sync import Assignment, Demand, SyncReply, SyncRequest
from tuner.worker.agent.ahead import Ahead
from tuner.worker.agent.holdings import Holdings
from tuner.worker.agent.outbox import Parcel

WIDTH = 8


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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
        room = min(request.capacity[0].free, self.parallel - len(self.live))
        for one in [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]:
            self.live[one.trial, one.attempt] = one
        wanted = [one for key, one in self.live.items() if key not in held]
        more = min(len(self.waiting), 2**31)
        demand = [Demand(study=1, device="cpu", stack="digits", most=self.parallel, more=more)] if self.live else []
        return SyncReply(assign=wanted, demand=demand, lease_s=30, next_sync_s=1.0)


def run_study(work: list[Assignment], *, parallel: int, round_trip: int) -> tuple[float, int]:
    """Train all of it with syncs that last `round_trip` ticks, one at a time; return utilisation and ticks."""
    device, server = TickedDevice(WIDTH), SlowServer(work, parallel)
    holdings = Holdings([device], clock=lambda: device.now_s)
    device.listen = holdings.listen  # type: ignore[assignment]
    holdings.listen(device, {"hello": {"workloads": [], "description": ""}})
    under_way: tuple[Parcel, SyncRequest, SyncReply, float] | None = None
    while server.waiting or server.live or not holdings.idle:
        if under_way is None:
            parcel = holdings.outbox.parcel()
            said: dict[str, Any] = {"finished": parcel.finished, "slots": holdings.slots()}
            request = SyncRequest(
                session="s", seq=0, capacity=holdings.capacity(), held=holdings.held(parcel.finished), **said
            )
            under_way = parcel, request, server.answer(request), device.now_s
        device.tick()
        if device.now_s >= under_way[3] + round_trip:
            holdings.answered(under_way[0], under_way[1], device.now_s - under_way[3])
            holdings.obey(under_way[2])
            under_way = None
        assert device.now_s < 10_000
    busy, offered = device.runner._use.totals()[1]
    return busy / offered, int(device.now_s)


def many_short_trials(count: int) -> list[Assignment]:
    """Trials of 8 to 24 ticks."""
    lengths = random.Random(0)
    return [
        assignment(n, examples=32 * lengths.randint(8, 24), micro_batch=32, params={**SGD, "batch_size": 32})
        for n in range(count)
    ]


SGD = {"optimizer": "sgd", "lr": 0.01}


def test_a_freed_slot_is_refilled_in_the_very_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as an assignment is at hand no tick runs with an empty slot, whoever ended in the tick before."""
    occupied: list[tuple[int, int]] = []
    real = Stack.tick

    def watched(stack: Stack) -> Any:
        occupied.append((stack.width - stack.free, len(device.runner._backlog)))
        return real(stack)

    monkeypatch.setattr(Stack, "tick", watched)
    device = TickedDevice(WIDTH)
    for one in many_short_trials(24):
        device.runner.assign(one.model_dump())
    while device.runner.busy:
        device.tick()
    assert all(seats == WIDTH for seats, waiting in occupied if waiting)
    assert max(waiting for _, waiting in occupied) == 24 - WIDTH and len(occupied) > 30


def test_slots_do_not_idle_while_a_sync_is_under_way() -> None:
    """Without assignments ahead such a study leaves slots idle: the measurement can tell the two apart."""
    kept, _ = run_study(many_short_trials(120), parallel=64, round_trip=5)
    assert kept >= 0.95
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ahead, "count", lambda ahead, width: 0)
        starved, _ = run_study(many_short_trials(40), parallel=64, round_trip=5)
    assert starved < 0.8


def test_parallel_bounds_what_is_in_flight_and_what_is_offered() -> None:
    """A study that may have three trials at a time is offered three slots of eight."""
    work = many_short_trials(20)
    utilisation, ticks = run_study(work, parallel=3, round_trip=2)
    lengths = [one.examples // 32 for one in work]
    assert ticks >= sum(lengths) / 3
    assert 0.7 < utilisation < 0.95  # each end costs its slot one to two round trips: nothing may be ahead
