"""Several device processes on one device: each has a name, capacity and stack of its own; they share a disk."""

from pathlib import Path

from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.worker.child import DeviceProcess


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
