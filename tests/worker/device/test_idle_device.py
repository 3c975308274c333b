"""A device process without work has said that its stack is gone before it waits for the next message."""

from typing import Any

import pytest
from worker_doubles import FakeDevice, assignment

from tuner.wire.sync import Stop
from tuner.worker.agent.holdings import Holdings
from tuner.worker.channel import Json
from tuner.worker.device.device import obey
from tuner.worker.device.runner import Runner
from tuner.worker.device.stack_choice import Given


class Waiting(Exception):
    """Raised where the process would wait: nothing comes any more."""


class Inbox:
    """Messages in a given order."""

    def __init__(self, *messages: Json) -> None:
        self.messages = list(messages)

    def empty(self) -> bool:
        return not self.messages

    def get(self, *, timeout: float | None = None) -> Json:
        if not self.messages:
            raise Waiting
        return self.messages.pop(0)


def assign(trial: int, **changes: Any) -> Json:
    return {"assign": assignment(trial, **changes).model_dump()}


def test_a_stopped_study_leaves_the_device_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Json] = []
    runner = Runner(sent.append, "cpu", Given(2, 1))
    inbox = Inbox(assign(1, examples=10**6), assign(2, examples=10**6))
    stops = [{"stop": [1, 1]}, {"stop": [2, 1]}]
    tick = runner.step

    def step() -> None:
        tick()
        if runner._stacks.busy:
            inbox.messages += stops
            stops.clear()

    monkeypatch.setattr(runner, "step", step)
    with pytest.raises(Waiting):
        obey(inbox, runner, sent.append)
    assert [message for message in sent if "stacks" in message][-2:] == [
        {"stacks": {"digits": 2}, "opens": True},
        {"stacks": {}, "opens": True},
    ]


def test_a_study_stopped_before_its_stack_was_built_leaves_nothing_behind() -> None:
    sent: list[Json] = []
    with pytest.raises(Waiting):
        obey(Inbox(assign(1), {"stop": [1, 1]}), Runner(sent.append, "cpu", Given(2, 1)), sent.append)
    assert sent == [{"stacks": {}, "opens": True}]


def test_the_agent_offers_a_device_to_other_studies_whatever_it_holds() -> None:
    device = FakeDevice()
    holdings = Holdings([device])
    device.keep_running(lambda one, message: holdings.listen(one, message) and None)

    def offered() -> list[tuple[str | None, int]]:
        return [(capacity.stack, capacity.free) for capacity in holdings.capacity()]

    assert offered() == [(None, 1)]
    holdings.take(assignment(1))
    assert offered() == [(None, 0)]  # one stack at a time: how much it takes of this one is not known yet
    device.say({"stacks": {"digits": 2}, "opens": True})
    assert offered() == [("digits", 2), (None, 1)]
    holdings.drop(Stop(trial=1, attempt=1, order="stop", why="stopped"))
    assert offered() == [("digits", 3), (None, 1)]
    device.say({"stacks": {"digits": 2}, "opens": False})
    assert offered() == [("digits", 3), (None, 0)]
