"""A real device process under a real limit of the allocator (RLIMIT_DATA): narrower, displaced, and oom at width 1."""

from pathlib import Path
from typing import Any

import pytest
from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.wire.sync import Finish
from tuner.worker.agent.child import DeviceProcess

LIMITED = '''
"""Parameters of `mib` MiB per slot, and `room` MiB to put a stack in."""
import resource

import torch
from torch import nn

import tuner


def limit(room: int) -> None:
    """Allow so many MiB more than the process has now."""
    with open("/proc/self/status") as status:
        data = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, ((data + 1024 * room) * 1024, resource.RLIM_INFINITY))


@tuner.workload("large")
def large(mib: int = 1, room: int = 100) -> tuner.Task:
    """A matrix."""
    x = torch.zeros(64, 256)
    limit(room)
    return tuner.Task(
        model=lambda: nn.Linear(256, 1024 * mib, bias=False),
        loss=lambda output, target: output.square().mean(),
        train=(x, x),
        valid=(x, x),
    )
'''


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceProcess:
    (tmp_path / "limited.py").write_text(LIMITED)
    monkeypatch.chdir(tmp_path)
    return DeviceProcess("cpu", 8, 1, ["limited.py"])


def lease_until_finished(server: FakeServer, trial: int, mib: int, room: int) -> list[Finish]:
    """Queue a trial again as often as it is displaced; return the last words of all its attempts."""
    for attempt in range(1, 9):
        where: dict[str, Any] = {"workload": "large", "stack": str(mib), "workload_params": {"mib": mib, "room": room}}
        server.lease(assignment(trial, attempt, examples=32, **where))
        eventually(lambda key=(trial, attempt): key in server.outcomes())  # type: ignore[misc]
        if server.outcomes()[trial, attempt] != "displaced":
            break
    return [finish for finish in server.finishes if finish.trial == trial]


def test_a_stack_that_does_not_fit_is_halved_until_it_does(device: DeviceProcess) -> None:
    server = FakeServer()
    with RunningAgent(server, device) as running:
        *displaced, last = lease_until_finished(server, 1, mib=8, room=210)
        assert {finish.outcome for finish in displaced} <= {"displaced"}
        assert (last.outcome, last.infeasible, last.step) == ("finished", None, 2)
        assert last.program["width"] in (1, 2, 4)
        pid = device.pid

        *displaced, last = lease_until_finished(server, 2, mib=40, room=100)
        assert {finish.outcome for finish in displaced} <= {"displaced"}
        assert (last.outcome, last.infeasible, last.step) == ("finished", "oom", 0)
        assert device.pid == pid  # the process lives on
        *_, last = lease_until_finished(server, 3, mib=1, room=300)
        assert (last.outcome, last.infeasible, last.program["width"]) == ("finished", None, 8)  # others keep theirs
        assert running.drain() == 0
