"""What a device process printed is kept with the trial that failed on it: its last lines, however much came before."""

import os
import signal
from pathlib import Path

import pytest
from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.wire.sync import LogTail
from tuner.worker.agent.child import DeviceProcess

WORKLOAD = """
import sys
import torch
from torch import nn
import tuner

@tuner.workload("loud")
def loud(fails: bool = True):
    x = torch.randn(64, 3)
    def loss(output, target):
        if fails:
            for _ in range(200):
                print("z" * 9999)
            print("on standard output")
            sys.stderr.write("and on standard error\\n")
            raise ValueError("the data is odd")
        return nn.functional.mse_loss(output, target)
    return tuner.Task(model=lambda: nn.Linear(3, 1), loss=loss, train=(x, x[:, :1]), valid=(x, x[:, :1]))
"""


def test_the_last_lines_of_a_failing_trial_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud.py").write_text(WORKLOAD)
    monkeypatch.chdir(tmp_path)
    server, device = FakeServer(), DeviceProcess("cpu", 2, 1, ["loud.py"])

    def logs() -> dict[int, LogTail]:
        with server.lock:
            return {log.trial: log for request in server.requests for log in request.logs}

    with RunningAgent(server, device):
        server.lease(assignment(1, workload="loud", stack="loud"))
        eventually(lambda: server.outcomes() == {(1, 1): "error"})
        text = logs()[1].text
        assert "on standard output\nand on standard error\n" in text and len(text) <= 65_536
        assert logs()[1].written > 2_000_000
        params = {"workload_params": {"fails": False}, "examples": 10**8}
        server.lease(assignment(2, workload="loud", stack="quiet", **params))
        eventually(lambda: any(trial == 2 for trial, _, _ in server.reports))
        assert device.pid is not None
        os.kill(device.pid, signal.SIGKILL)
        eventually(lambda: server.outcomes().get((2, 1)) == "crashed")
        assert 2 in logs(), "what a crash left on the screen may tell why"
    assert "on standard output" in capfd.readouterr().err, "it is passed on as before"
