"""Kill -9 and a stopped process, with a real agent and real device processes: who is charged, and what is lost.

The trials of one device are charged and resume from their checkpoints without a trace; those of another device of the
same worker never notice.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.wire.sync import Checkpointed, Resume
from tuner.worker.agent.child import DeviceProcess

SLOW = '''
import pathlib, time
import torch
from torch import nn
import tuner
from tuner.worker.device import checkpoints

checkpoints.SHARE = 1.0  # the test waits for checkpoints, whatever they cost on a busy machine


def pace(output, target):
    """Takes its time as long as the file is there, so that a trial lasts until the test is done with it."""
    if pathlib.Path("slow").exists():
        time.sleep(0.06)
    return output.abs().mean()


@tuner.workload("slow")
def slow() -> tuner.Task:
    """A line through noise, validated at leisure."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    model = lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
    return tuner.Task(model, nn.functional.mse_loss, (x, y), (x, y), metrics={"pace": pace})
'''
STEPS, BATCH = 300, 8
SEEDS = {1: 0, 2: 5}
PARAMS = {"optimizer": "adamw", "lr": 1e-3, "batch_size": BATCH, "schedule": "cosine"}


def trial(number: int, attempt: int = 1, **changes: Any) -> Any:
    rungs = list(range(4 * BATCH, STEPS * BATCH, 4 * BATCH))
    fixed = {"workload": "slow", "stack": "slow", "params": PARAMS, "examples": STEPS * BATCH, "rungs": rungs}
    return assignment(number, attempt, report_every=10**6, **{**fixed, **changes})


def told_checkpoints(server: FakeServer) -> dict[int, Checkpointed]:
    """The latest checkpoint of each trial that the server was told of."""
    with server.lock:
        return {c.trial: c for request in server.requests for c in request.checkpointed}


def resume(word: Checkpointed) -> Resume:
    return Resume(path=word.path, digest=word.digest, bytes=word.bytes, step=word.step, examples=BATCH * word.step)


def curve(server: FakeServer, trial: int, resumed_from: list[int]) -> list[Any]:
    """The rows that count: those of each attempt up to where the next one began."""
    with server.lock:
        rows = [report for key, report in server.reports.items() if key[0] == trial]
    ends = [*resumed_from, STEPS]
    return sorted((r.step, repr(r.metrics), r.noise) for r in rows if r.step <= ends[r.attempt - 1])


class Lost:
    """Trials 1 and 2 run on a device that is lost again and again, trial 3, the same as 1, on another one."""

    def __init__(self, server: FakeServer, running: RunningAgent, device: DeviceProcess) -> None:
        self.server, self.device, self.attempt = server, device, 1
        self.watchdog = running.agent._watchdog
        self.resumed_from: dict[int, list[int]] = {1: [], 2: []}

    def under_way(self) -> bool:
        """Whether both have rows and a checkpoint of their present attempt."""
        words = told_checkpoints(self.server)
        with self.server.lock:
            reported = {key[:2] for key in self.server.reports}
        return all(n in words and words[n].attempt == self.attempt and (n, self.attempt) in reported for n in (1, 2))

    def lose(self, number: signal.Signals, why: str) -> None:
        """Lose the process: both trials are charged, and resume from their checkpoints once it has started again."""
        eventually(self.under_way, 90)
        pid, patience_s = self.device.pid, self.watchdog._hang_s
        assert pid is not None
        self.watchdog._hang_s = 3.0  # not from the beginning: starting takes long on a busy machine
        os.kill(pid, number)
        ended = [(n, self.attempt) for n in (1, 2)]
        eventually(lambda: set(ended) <= self.server.outcomes().keys())
        self.watchdog._hang_s = patience_s
        words = [f for f in self.server.finishes if (f.trial, f.attempt) in ended]
        assert [(f.outcome, f.error) for f in words] == 2 * [("crashed", f"the device process of cpu {why}")]
        assert all(0 < f.step < STEPS and f.program["path"] in ("eager", "loop") for f in words)
        self.attempt += 1
        places = told_checkpoints(self.server)
        for n, resumed in self.resumed_from.items():
            resumed.append(places[n].step)
        eventually(lambda: any(c.device == "cpu" and c.free > 0 for c in self.server.requests[-1].capacity), 60)
        again = [trial(n, self.attempt, seed=SEEDS[n], resume=resume(places[n])) for n in (1, 2)]
        self.server.lease(*again)


def test_a_device_process_is_killed_and_stopped_and_its_trials_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, it is missed at once; stopped, the watchdog ends it. The other device's process and trial go on."""
    (tmp_path / "problem.py").write_text(SLOW)
    (tmp_path / "slow").touch()
    monkeypatch.chdir(tmp_path)
    server = FakeServer()
    device, other = (DeviceProcess(d, 2, 1, ["problem.py"], str(tmp_path), 0.05) for d in ("cpu", "cpu:0"))
    with RunningAgent(server, device, other) as running:
        server.lease(trial(1), trial(2, seed=SEEDS[2]), trial(3, device="cpu:0"))
        lost = Lost(server, running, device)
        eventually(lambda: any(key[0] == 3 for key in server.reports), 90)
        spared = other.pid
        lost.lose(signal.SIGKILL, "ended with signal 9")
        lost.lose(signal.SIGSTOP, "did not tick for 3 s and was terminated")
        (tmp_path / "slow").unlink()
        finished = {(1, 3), (2, 3), (3, 1)}
        eventually(lambda: finished <= server.outcomes().keys(), 90)
        assert spared is not None and other.pid == spared
    assert {key for key, outcome in server.outcomes().items() if outcome == "finished"} == finished
    assert len(server.outcomes()) == 7
    undisturbed = curve(server, 3, [])
    assert len(undisturbed) == STEPS // 4
    assert curve(server, 1, lost.resumed_from[1]) == undisturbed
    assert [step for step, *_ in curve(server, 2, lost.resumed_from[2])] == [step for step, *_ in undisturbed]
    assert 0 < lost.resumed_from[1][0] <= lost.resumed_from[1][1]
