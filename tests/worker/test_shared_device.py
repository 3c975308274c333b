"""Several device processes on one device: each has a name, capacity and stack of its own; they share a disk."""

import signal
from pathlib import Path
from typing import Any

import pytest
from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.probe import choice
from tuner.worker.agent import agent
from tuner.worker.agent.child import DeviceProcess
from tuner.worker.run import run


def test_two_processes_of_one_device_train_side_by_side(tmp_path: Path) -> None:
    server = FakeServer()
    children = [DeviceProcess("cpu", 2, 1, [], str(tmp_path), number=number, own_disk=True) for number in (1, 2)]
    with RunningAgent(server, *children) as running:
        server.lease(assignment(1, device="cpu#1"), assignment(2, device="cpu#2"), assignment(3, device="cpu"))
        eventually(lambda: len(server.outcomes()) == 3)
        assert server.outcomes() == {(1, 1): "finished", (2, 1): "finished", (3, 1): "displaced"}
        assert [device.device for device in server.registrations[0].devices] == ["cpu#1", "cpu#2"]
        scopes = {device.scope for device in server.registrations[0].devices}
        assert len(scopes) == 1 and scopes.pop().startswith("worker:")
        assert {capacity.device for capacity in server.requests[-1].capacity} == {"cpu#1", "cpu#2"}
        programs = [finish.program for finish in server.finishes if finish.trial != 3]
        assert programs[0] == programs[1] and programs[0]["device"] == "cpu"
        assert running.drain() == 0


def test_a_worker_starts_what_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names, threads and the store reach the device processes; one process per device has the device's own name."""
    started: list[DeviceProcess] = []

    class Recorder:
        def __init__(self, server: object, devices: list[DeviceProcess], **_: object) -> None:
            started.extend(devices)

        def run(self) -> int:
            return 7

    monkeypatch.setattr(agent, "Agent", Recorder)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    common: dict[str, Any] = {"devices": ["cpu"], "checkpoints": str(tmp_path)}
    assert run("http://nowhere", processes=2, threads=3, own_disk=True, **common) == 7
    assert [device.device for device in started] == ["cpu#1", "cpu#2"]
    for device in started:
        line = " ".join(device._command)
        assert "--device cpu --threads 3" in line and line.endswith("--own-disk")
    choice.store(choice.key("w", {}, 8, choice.cpu()), choice.Choice((choice.Cell("eager", 4, 0.5, 3, 5),)))
    started.clear()
    run("http://nowhere", **common)
    assert [device.device for device in started] == ["cpu#1", "cpu#2", "cpu#3"]
    assert all("--threads 5" in " ".join(device._command) for device in started)
    started.clear()
    run("http://nowhere", width=8, processes=1, **common)
    assert [device.device for device in started] == ["cpu"] and "--own-disk" not in started[0]._command
