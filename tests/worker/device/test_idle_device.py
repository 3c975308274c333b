"""A device process without work has said that its stack is gone before it waits for the next message."""

from typing import Any

import pytest
from worker_doubles import FakeDevice, assignment

from tuner.wire.sync import Stop
from tuner.worker.agent.holdings import Holdings
from tuner.worker.channel import Json
from tuner.worker.device.device import obey
from tuner.worker.device.runner import Runner


class Waiting(Exception):
    """Raised where the process would wait: nothing comes any more."""


class Inbox:
    """Messages in a given order."""

    def __init__(self, *messages: Json) -> None:
        self.messages = list(messages)

    def empty(self) -> bool:
        return not self.messages

    def get(self) -> Json:
        if not self.messages:
            raise Waiting
        return self.messages.pop(0)


def assign(trial: int, **changes: Any) -> Json:
    return {"assign": assignment(trial, **changes).model_dump()}


def test_a_stopped_study_leaves_the_device_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Json] = []
    runner = Runner(sent.append, "cpu", 2)
    inbox = Inbox(assign(1, examples=10**6), assign(2, examples=10**6))
    stops = [{"stop": [1, 1]}, {"stop": [2, 1]}]
    tick = runner.step

    def step() -> None:
        tick()
        inbox.messages += stops
        stops.clear()

    monkeypatch.setattr(runner, "step", step)
    with pytest.raises(Waiting):
        obey(inbox, runner, sent.append)
    assert [message["stack"] for message in sent if "stack" in message] == ["digits", None]


def test_a_study_stopped_before_its_stack_was_built_leaves_nothing_behind() -> None:
    sent: list[Json] = []
    with pytest.raises(Waiting):
        obey(Inbox(assign(1), {"stop": [1, 1]}), Runner(sent.append, "cpu", 2), sent.append)
    assert sent == []


def test_the_agent_offers_a_device_without_trials_to_any_study() -> None:
    """Without waiting for the device's word: the next request may already be on its way, and waits for work."""
    device = FakeDevice()
    holdings = Holdings([device])
    device.keep_running(lambda one, message: holdings.listen(one, message) and None)
    holdings.take(assignment(1))
    device.say({"stack": "digits"})
    assert holdings.capacity()[0].stack == "digits"
    holdings.drop(Stop(trial=1, attempt=1, why="stopped"))
    assert holdings.capacity()[0].stack is None
