"""Several device processes on one device: each has a name, capacity and stack of its own."""

from worker_doubles import FakeServer, RunningAgent, assignment, eventually

from tuner.worker.child import DeviceProcess


def test_two_processes_of_one_device_train_side_by_side() -> None:
    server = FakeServer()
    with RunningAgent(server, *(DeviceProcess("cpu", 2, 1, [], number=number) for number in (1, 2))) as running:
        server.lease(assignment(1, device="cpu#1"), assignment(2, device="cpu#2"), assignment(3, device="cpu"))
        eventually(lambda: len(server.outcomes()) == 3)
        assert server.outcomes() == {(1, 1): "finished", (2, 1): "finished", (3, 1): "displaced"}
        assert [device.device for device in server.registrations[0].devices] == ["cpu#1", "cpu#2"]
        assert {capacity.device for capacity in server.requests[-1].capacity} == {"cpu#1", "cpu#2"}
        programs = [finish.program for finish in server.finishes if finish.trial != 3]
        assert programs[0] == programs[1] and programs[0]["device"] == "cpu"
        assert running.drain() == 0
