"""The worker's end of the sync protocol, against a server whose replies get lost, repeated and late."""

import math

import pytest
from worker_doubles import FakeDevice, FakeServer, RunningAgent, assignment, eventually

from tuner.errors import NotAllowed, NotFound, Unreachable
from tuner.wire.sync import Stop
from tuner.worker.agent import agent as agent_module


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(agent_module, "LONGEST_BACKOFF_S", 0.02)
    monkeypatch.setattr(agent_module, "POLL_S", 0.01)


def test_a_trial_runs_once_and_is_acknowledged(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(lambda: device.assigned() == [(1, 1)])
        device.start(1)
        device.row(1, 5, loss=math.nan)
        device.end(1)
        eventually(lambda: server.outcomes() == {(1, 1): "finished"})
        count = len(server.requests)
        eventually(lambda: len(server.requests) > count + 1)
    assert [f.program for f in server.finishes] == [{"device": "cpu", "width": 2}]
    assert math.isnan(server.reports[1, 1, 5].metrics["valid_loss"])
    assert server.requests[-1].held == [] and server.requests[-1].reports == []
    assert device.assigned() == [(1, 1)]
    seqs = [request.seq for request in server.requests]
    assert seqs == sorted(set(seqs))
    registration = server.registrations[0]
    assert (registration.session, registration.devices[0].width) == ("s" * 16, 2)
    assert [w.name for w in registration.workloads] == ["digits-mlp"]


def test_repeated_and_late_replies_start_nothing_again(server: FakeServer, device: FakeDevice) -> None:
    server.stubborn = True
    with RunningAgent(server, device):
        server.lease(assignment(1), assignment(2))
        eventually(lambda: len(server.requests) > 4)
        device.end(1)
        eventually(lambda: (1, 1) in server.outcomes())
        count = len(server.requests)
        eventually(lambda: len(server.requests) > count + 3)
        assert sorted(device.assigned()) == [(1, 1), (2, 1)]
    assert [f.trial for f in server.finishes].count(1) == 1


def test_lost_replies_are_made_good_by_repeating(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(device.assigned)
        server.mute = Unreachable("the reply was lost")
        device.row(1, 5)
        device.end(1)
        eventually(lambda: len(server.finishes) >= 3)
        assert all([r.step for r in request.reports] == [5] for request in server.requests[-2:])
        server.mute = None
        count = len(server.requests)
        eventually(lambda: len(server.requests) > count + 2)
        assert server.requests[-1].finished == [] and server.requests[-1].reports == []


def test_training_goes_on_while_the_server_is_away(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(device.assigned)
        server.fault = Unreachable("nobody answers")
        for step in range(1, 30):
            device.row(1, step)
        device.end(1)
        server.fault = None
        eventually(lambda: (1, 1) in server.outcomes())
    assert sorted(step for _, _, step in server.reports) == list(range(1, 30))


def test_a_worker_asks_again_before_its_leases_run_out(
    server: FakeServer, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LONGEST_BACKOFF_S", 1000.0)
    server.lease_s = 0.03
    with RunningAgent(server, device):
        eventually(lambda: server.requests)
        server.fault = Unreachable("the server's database is away")
        eventually(lambda: server.refused > 20)  # pauses that double would be hours long by now


def test_a_stop_order_is_obeyed_and_what_comes_after_is_dropped(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1), assignment(2))
        eventually(lambda: len(device.assigned()) == 2)
        server.stops.append(Stop(trial=1, attempt=1, order="prune", why="pruned"))
        eventually(lambda: {"stop": [1, 1]} in device.sent)
        device.row(1, 5)
        device.end(1)
        count = len(server.requests)
        eventually(lambda: len(server.requests) > count + 2)
        assert [(h.trial, h.attempt) for h in server.requests[-1].held] == [(2, 1)]
        assert server.reports == {} and server.finishes == []


def test_a_last_word_beats_a_stop_order(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(device.assigned)
        server.fault = Unreachable("away")
        device.end(1)
        server.stops.append(Stop(trial=1, attempt=1, order="prune", why="pruned"))
        server.fault = None
        eventually(lambda: server.outcomes() == {(1, 1): "finished"})
        assert {"stop": [1, 1]} not in device.sent


def test_a_dead_device_process_is_blamed_on_those_it_ran(server: FakeServer, device: FakeDevice) -> None:
    """The attempt that had not entered the stack cannot have killed it; the device starts again and works on."""
    with RunningAgent(server, device):
        server.lease(assignment(1), assignment(2))
        eventually(lambda: len(device.assigned()) == 2)
        device.start(1)
        device.die(-9)
        eventually(lambda: server.outcomes() == {(1, 1): "crashed", (2, 1): "displaced"})
        assert "signal 9" in str(server.finishes[0].error)
        eventually(lambda: device.starts == 2)
        server.lease(assignment(1, 2))
        eventually(lambda: (1, 2) in device.assigned())


def test_an_error_that_utf_8_cannot_carry_is_told_all_the_same(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(device.assigned)
        device.say({"restarted": {"trial": 1, "attempt": 1, "why": "no file \udcff"}})
        device.end(1, outcome="error", error="no file \udcff here")
        eventually(lambda: server.outcomes() == {(1, 1): "error"})
    assert server.finishes[0].error == "no file ? here"


def test_capacity_keeps_some_assignments_ahead(server: FakeServer) -> None:
    device = FakeDevice(width=16)
    with RunningAgent(server, device):
        eventually(lambda: server.requests)
        assert [(c.stack, c.free) for c in server.requests[-1].capacity] == [(None, 1)]
        server.lease(*(assignment(n) for n in range(5)))
        eventually(lambda: len(device.assigned()) == 5)
        device.say({"stacks": {"digits": 16}, "opens": True})
        entries = [("digits", 13), (None, 1)]
        eventually(lambda: [(c.stack, c.free) for c in server.requests[-1].capacity] == entries)
        device.say({"stacks": {"digits": 8}, "opens": False})
        eventually(lambda: [c.free for c in server.requests[-1].capacity] == [4, 0])


def test_only_an_idle_worker_lets_the_server_wait(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        eventually(lambda: server.requests)
        assert server.requests[0].wait_s > 0
        server.lease(assignment(1))
        eventually(lambda: server.requests[-1].held)
        assert server.requests[-1].wait_s == 0


def test_a_server_that_forgot_us_gets_the_same_session_again(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(device.assigned)
        server.mute = NotFound("there is no worker 1")
        eventually(lambda: len(server.registrations) >= 2)
        server.mute = None
        device.end(1)
        eventually(lambda: (1, 1) in server.outcomes())
    assert {registration.session for registration in server.registrations} == {"s" * 16}


def test_drain_hands_everything_back(server: FakeServer, device: FakeDevice) -> None:
    running = RunningAgent(server, device)
    with running:
        server.lease(assignment(1), assignment(2))
        eventually(lambda: len(device.assigned()) == 2)
        device.row(1, 7)
        server.lease(assignment(3))  # leased at the last moment, perhaps only in the farewell's reply
        assert running.drain() == 0
    assert {server.outcomes()[key, 1] for key in (1, 2, 3)} == {"drained"}
    assert next(f for f in server.finishes if f.trial == 1).step == 7
    assert device.closed


def test_drain_does_not_wait_for_a_server_that_is_away(
    server: FakeServer, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "FAREWELL_S", 0.2)
    running = RunningAgent(server, device)
    with running:
        server.lease(assignment(1))
        eventually(device.assigned)
        server.fault = Unreachable("away")
        assert running.drain() == 0


def test_exit_statuses(server: FakeServer, device: FakeDevice) -> None:
    device.dead_at_birth = True
    with RunningAgent(server, device) as running:
        eventually(lambda: running.status == 1)
    server.fault = NotAllowed("wrong token")
    with RunningAgent(server, FakeDevice()) as running:
        eventually(lambda: running.status == 2)


def test_a_slot_is_free_before_its_trials_weights_are_stored(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(lambda: device.assigned() == [(1, 1)])
        device.say({"stacks": {"digits": 2}, "opens": False})
        device.start(1)
        eventually(lambda: [c.free for c in server.requests[-1].capacity] == [2, 0])
        device.say({"left": [1, 1]})
        eventually(lambda: [c.free for c in server.requests[-1].capacity] == [3, 0])
        assert [(h.trial, h.attempt) for h in server.requests[-1].held] == [(1, 1)] and not server.finishes
        device.end(1)
        eventually(lambda: server.outcomes() == {(1, 1): "finished"})


def test_what_an_attempt_runs_is_told_once(server: FakeServer, device: FakeDevice) -> None:
    """A reproducible study waits for the program, so it is told at once."""
    with RunningAgent(server, device):
        server.lease(assignment(1, reproducible=True))
        eventually(lambda: device.assigned() == [(1, 1)])
        device.start(1)
        eventually(lambda: any(request.started for request in server.requests))
        count = len(server.requests)
        eventually(lambda: len(server.requests) > count + 1)
        assert not server.requests[-1].started
        device.say({"declined": "abcdef"})
        eventually(lambda: server.requests[-1].capacity[0].declines == ["abcdef"])
    (started,) = {(s.trial, s.attempt, str(s.program)) for request in server.requests for s in request.started}
    assert started == (1, 1, str({"device": "cpu", "width": 2}))


def test_a_worker_that_meets_another_database_starts_clean(server: FakeServer, device: FakeDevice) -> None:
    with RunningAgent(server, device) as running:
        server.lease(assignment(1))
        eventually(lambda: device.assigned() == [(1, 1)])
        first = running.agent.session
        with server.lock:  # it comes back with an empty database
            server.fault, server.database = NotFound("no worker 1 with this session; register again"), "two"
            server.leases.clear()
        eventually(lambda: running.agent.worker is None)
        with server.lock:
            server.fault = None
            count = len(server.requests)
        eventually(lambda: device.killed)
        device.die(-9)
        server.lease(assignment(1, token="of the new one"))
        eventually(lambda: device.assigned() == [(1, 1), (1, 1)])
        assert running.agent.session != first
        with server.lock:
            assert not any(held.token == "token-1-1" for request in server.requests[count:] for held in request.held)
        device.end(1)
        eventually(lambda: [finish.token for finish in server.finishes] == ["of the new one"])


def test_the_same_numbers_with_another_token_make_it_start_clean(server: FakeServer, device: FakeDevice) -> None:
    """A restored backup grants the same trial again, perhaps with another configuration."""
    with RunningAgent(server, device):
        server.lease(assignment(1))
        eventually(lambda: device.assigned() == [(1, 1)])
        with server.lock:
            server.stubborn = True
            server.leases = {(1, 1): assignment(1, token="another")}
        eventually(lambda: device.killed)
        with server.lock:
            server.stubborn, server.leases = False, {}
        device.die(-9)
        server.lease(assignment(1, attempt=2))
        eventually(lambda: device.assigned()[-1] == (1, 2))
        device.end(1, attempt=2)
        eventually(lambda: server.outcomes().get((1, 2)) == "finished")
        assert "token-1-1" not in {finish.token for finish in server.finishes}, "nothing of the old work is reported"
