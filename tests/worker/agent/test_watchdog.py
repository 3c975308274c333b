"""A device process that stopped ticking is ended, blamed, and started again; others are left alone."""

from pathlib import Path

import pytest
from worker_doubles import FakeDevice, FakeServer, RunningAgent, assignment, eventually

from tuner.worker.agent import watchdog as module
from tuner.worker.agent.child import DeviceProcess
from tuner.worker.agent.watchdog import Watchdog

BLOCKING = '''
import pathlib, time
import torch
from torch import nn
import tuner

GATE = pathlib.Path("gate")


def loss(output, target):
    if GATE.exists():
        GATE.unlink()
        time.sleep(3600)
    return nn.functional.mse_loss(output, target)


@tuner.workload("blocking")
def blocking() -> tuner.Task:
    """Blocks in its loss while there is a gate."""
    x = torch.arange(24.0).view(8, 3) / 24
    return tuner.Task(model=lambda: nn.Linear(3, 1), loss=loss, train=(x, x[:, :1]), valid=(x, x[:, :1]))
'''


def test_a_workload_that_blocks_is_ended_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "problem.py").write_text(BLOCKING)
    monkeypatch.chdir(tmp_path)
    server, device = FakeServer(), DeviceProcess("cpu", 2, 1, ["problem.py"])
    with RunningAgent(server, device) as running:
        blocking = {"workload": "blocking", "stack": "blocking"}
        server.lease(assignment(1, **blocking, examples=10**8))
        eventually(lambda: server.reports)
        first = device.pid
        watchdog = running.agent._watchdog
        patience_s, watchdog._hang_s = watchdog._hang_s, 3.0  # from here on: a start may take longer on a busy machine
        (tmp_path / "gate").touch()
        eventually(lambda: (1, 1) in server.outcomes())
        watchdog._hang_s = patience_s
        assert server.outcomes() == {(1, 1): "crashed"}
        assert server.finishes[0].error == "the device process of cpu did not tick for 3 s and was terminated"
        eventually(lambda: server.requests[-1].capacity and server.requests[-1].capacity[0].free > 0)
        server.lease(assignment(1, 2, **blocking))
        eventually(lambda: server.outcomes().get((1, 2)) == "finished")
        assert first is not None and device.pid not in (None, first)


class Watched:
    """A watchdog over one fake device, and a clock under the test's control."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device, self.busy, self.now, self.killed = FakeDevice(), True, 0.0, 0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(self.device, "kill", self._kill)
        self.watchdog = Watchdog([self.device], lambda device: self.busy, 10.0)

    def _kill(self, why: str) -> None:
        self.killed += 1

    def pass_time(self, seconds: float, turns: int) -> None:
        for _ in range(turns):
            self.now += seconds / turns
            self.watchdog.turn()


def test_silence_counts_while_trials_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.pass_time(9.0, 90)
    watched.device.heard += 1
    watched.pass_time(9.0, 90)
    assert watched.killed == 0
    watched.busy = False
    watched.pass_time(60.0, 600)
    watched.busy = True
    watched.pass_time(9.0, 90)
    assert watched.killed == 0
    watched.pass_time(1.5, 15)
    assert watched.killed == 1
    watched.pass_time(9.0, 90)
    assert watched.killed == 1


def test_time_in_which_the_agent_itself_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.pass_time(3600.0, 3)
    assert watched.killed == 0


def test_a_crash_before_any_trial_had_started_is_blamed_on_the_first_in_line() -> None:
    """Otherwise a workload that crashes while it is loaded would be tried for ever."""
    server, device = FakeServer(), FakeDevice()
    with RunningAgent(server, device):
        server.lease(assignment(1), assignment(2))
        eventually(lambda: len(device.assigned()) == 2)
        device.die(-11)
        eventually(lambda: len(server.finishes) == 2)
        first, second = device.assigned()[:2]
        assert server.outcomes() == {first: "crashed", second: "displaced"}
