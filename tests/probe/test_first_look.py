"""The look before a workload's first stack: narrow first, no further than it pays, and never in vain."""

from typing import Any

import pytest
import torch

from tuner import workloads
from tuner.engine import Stack
from tuner.probe import first_look as module
from tuner.probe.first_look import first_look

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds per tick by width, for stacks that are really built."""
    times = {1: 1.0, 4: 1.0, 16: 1.0, 64: 1.0}
    monkeypatch.setattr(module, "tick_s", lambda stack, ticks: times[stack.width])
    return times


def widths(**given: Any) -> list[tuple[str, int]]:
    task = workloads.load("digits-mlp", {})
    return [(cell.path, cell.width) for cell in first_look(task, 4, CPU, [1, 4, 16, 64], **given)]


def test_wider_stacks_are_tried_while_they_are_faster(ticks: dict[int, float]) -> None:
    every = [("loop", 1), ("eager", 4), ("eager", 16), ("eager", 64)]
    assert widths() == every
    ticks[16] = 3.8  # 5 % more than at 4
    assert widths() == every[:3]
    ticks[4] = 4.1
    assert widths() == every[:2]


def test_long_ticks_are_not_spent_on_what_few_trials_cannot_gain() -> None:
    assert widths(expected=400) == [("loop", 1)]
    assert len(widths(expected=4000)) == 4


def test_one_slow_measurement_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else runs on the machine would decide, and the choice is kept."""
    taken: list[int] = []

    def once_slow(stack: Stack, ticks: int) -> float:
        taken.append(stack.width)
        return 1e-3 * (9.0 if taken == [1, 4] else 1.0)

    monkeypatch.setattr(module, "tick_s", once_slow)
    assert widths() == [("loop", 1), ("eager", 4), ("eager", 16), ("eager", 64)] and taken == [1, 4, 4, 16, 64]


def test_memory_ends_the_search(ticks: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    real = Stack.__init__

    def hungry(stack: Stack, *arguments: Any, width: int, **named: Any) -> None:
        if width > 4:
            raise torch.OutOfMemoryError("no memory left")
        real(stack, *arguments, width=width, **named)

    monkeypatch.setattr(Stack, "__init__", hungry)
    assert widths() == [("loop", 1), ("eager", 4)]


def test_nothing_is_learned_from_a_model_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ticks are short, since they end its trials."""
    monkeypatch.undo()
    task = workloads.load("digits-mlp", {})
    broken = workloads.Task(lambda: torch.nn.Linear(3, 2), task.loss, task.train, task.valid)
    assert list(first_look(broken, 4, CPU, [1, 4])) == []
