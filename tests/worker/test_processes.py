"""Real processes: a device process with a user's own workload, and local workers that are killed."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from http_server import HttpServer
from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.launchers.local import LocalWorkers
from tuner.study.catalogue import BUILT_IN_WORKLOADS
from tuner.worker.agent.child import DeviceProcess

USER_WORKLOAD = '''
"""A user's project that also has a module called api, and that prints."""
import sys

import torch
from torch import nn

import api
import tuner

FORBIDDEN = {"storage", "optuna", "fastapi", "sqlalchemy", "pydantic", "httpx2"}
print("hello from the user's module")


@tuner.workload("mine")
def mine(bias: bool = True) -> tuner.Task:
    """A line through noise."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))

    def loaded(output, target):
        print("evaluating")
        return float(len(FORBIDDEN & set(sys.modules)))

    return tuner.Task(
        model=lambda: nn.Linear(3, 1, bias=bias),
        loss=nn.functional.mse_loss,
        train=(x, x.sum(1, keepdim=True)),
        valid=(x, x.sum(1, keepdim=True)),
        metrics={"loaded": loaded, "own_api": lambda output, target: api.ANSWER},
    )
'''


def test_device_process_with_a_users_own_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the user's modules, keeps out the server's, survives prints; killed, it is blamed and starts again."""
    (tmp_path / "api.py").write_text("ANSWER = 42.0\n")
    (tmp_path / "problem.py").write_text(USER_WORKLOAD)
    monkeypatch.chdir(tmp_path)
    server, device = FakeServer(), DeviceProcess("cpu", 2, 1, ["problem.py"])
    with RunningAgent(server, device) as running:
        server.lease(assignment(1, workload="mine", stack="mine"))
        eventually(lambda: server.outcomes() == {(1, 1): "finished"})
        described = {w.name: w.description.rstrip(".") for w in server.registrations[0].workloads}
        assert described == {**BUILT_IN_WORKLOADS, "mine": "A line through noise"}
        last = server.reports[1, 1, 20].metrics
        assert (last["valid_loaded"], last["valid_own_api"]) == (0.0, 42.0)
        assert server.finishes[0].program["threads"] == 1

        server.lease(assignment(2, workload="mine", stack="mine", examples=10**8))
        eventually(lambda: any(trial == 2 for trial, _, _ in server.reports))
        first = device.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: (2, 1) in server.outcomes())
        assert server.outcomes()[2, 1] == "crashed" and "signal 9" in str(server.finishes[-1].error)
        eventually(lambda: server.requests[-1].capacity[0].free > 0)
        server.lease(assignment(2, 2, workload="mine", stack="mine"))
        eventually(lambda: server.outcomes().get((2, 2)) == "finished")
        second = device.pid
        assert second is not None and second != first
        assert running.drain() == 0
    assert not psutil.pid_exists(second)


def test_local_workers_are_restarted_and_stopped(tmp_path: Path) -> None:
    """Kill -9 of a worker takes its device process along; the next one carries on; stop drains."""
    server = FakeServer()
    with HttpServer(server) as http:
        workers = LocalWorkers(http.url, None, 2, tmp_path / "log", threads=1, flags=["--processes", "1"])
        workers.start()
        try:
            server.lease(assignment(1, examples=10**8))
            eventually(lambda: server.reports, 60)
            process = workers.workers[0].process
            assert process is not None and workers.poll() == 1
            children = psutil.Process(process.pid).children()
            assert len(children) == 1
            process.kill()
            process.wait()
            psutil.wait_procs(children, timeout=20)
            assert not children[0].is_running()
            eventually(lambda: workers.poll() == 1)
            eventually(lambda: len(server.registrations) == 2, 60)
            assert len({registration.session for registration in server.registrations}) == 2
            server.lease(assignment(2, examples=10**8))
            eventually(lambda: any(trial == 2 for trial, _, _ in server.reports), 60)
            process = workers.workers[0].process
        finally:
            workers.stop()
    assert process is not None and process.returncode == 0
    assert server.outcomes() == {(1, 1): "drained", (2, 1): "drained"}
    assert (tmp_path / "log" / "worker-cpu.log").exists()
