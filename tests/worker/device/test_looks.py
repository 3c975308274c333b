"""A device looks at a kind of trials once: what ended a look would end the next one, for this process and others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_doubles import assignment

from tuner.probe import first_look as look_module
from tuner.probe.choice import Cell
from tuner.worker.channel import Json
from tuner.worker.device import stack_choice
from tuner.worker.device.loading import Loaded, Loading
from tuner.worker.device.stack_choice import Given, StackChoice


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The ticks that each look expected."""
    seen: list[float] = []

    def counted(*args: Any, **more: Any) -> Iterator[Cell]:
        seen.append(more["expected"])
        return look_module.first_look(*args, **more)

    monkeypatch.setattr(stack_choice, "first_look", counted)
    return seen


def head_of(**changes: Any) -> tuple[Json, Loaded]:
    head = assignment(1, slots=8, remaining=8, **changes).model_dump()
    return head, Loading(torch.device("cpu")).load(head, set())


def test_a_look_that_would_cost_too_much_is_not_made_twice(looks: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes told each other of their looks, once a second, and looked again at what they had heard."""
    for module in (look_module, stack_choice):
        monkeypatch.setattr(module, "worth_going_on", lambda *_: False)
    head, loaded = head_of()
    processes = [StackChoice("cpu", Given(threads=1)) for _ in range(2)]
    for _ in range(3):
        for process in processes:
            process.news()
            assert process.choose(head, loaded, 0).path == "loop"
    assert len(looks) == 1


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Looks that end before they have seen a wide stack, as those that the memory ends."""
    seen: list[float] = []

    def look(*_: Any, **more: Any) -> Iterator[Cell]:
        seen.append(more["expected"])
        yield Cell("loop", 1, 1e-3)
        yield Cell("eager", 4, 1e-3)

    monkeypatch.setattr(stack_choice, "first_look", look)
    return seen


def test_a_look_that_memory_ended_is_not_made_twice(ended: list[float]) -> None:
    process = StackChoice("cpu", Given(threads=1))
    head, loaded = head_of()
    for _ in range(3):
        assert process.choose(head, loaded, 0).path == "eager"
    assert len(ended) == 1


def test_a_look_that_showed_nothing_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials of some models end at once; each of them shows why."""
    seen = []
    monkeypatch.setattr(stack_choice, "first_look", lambda *_, **more: seen.append(more["expected"]) or [])
    process = StackChoice("cpu", Given(threads=1))
    head, loaded = head_of()
    for _ in range(3):
        assert process.choose(head, loaded, 0).path == "auto"
    assert len(seen) == 1


def test_far_more_work_is_worth_another_look(ended: list[float]) -> None:
    process = StackChoice("cpu", Given(threads=1))
    for examples in (320, 640, 32000):
        process.choose(*head_of(examples=examples), 0)
    assert ended == [640.0, 64000.0]
