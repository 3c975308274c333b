"""The time of a lone step by batch size."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tuner.errors import InvalidInput
from tuner.probe import lone_step
from tuner.probe.lone_step import time_steps
from tuner.workloads import Task


class Clock:
    """Stands still but for what the model takes: 20 ms and 1 ms per example, and now and then four times that."""

    def __init__(self) -> None:
        self.now, self.steps = 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def step(self, examples: int) -> None:
        self.steps += 1
        self.now += (0.02 + 0.001 * examples) * (4 if self.steps % 7 == 3 else 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(lone_step, "time", clock)
    yield clock


def task(clock: Clock, examples: int = 1000) -> Task:
    class Model(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert self.training
            clock.step(len(x))
            return super().forward(x)

    x = torch.randn(examples, 3, generator=torch.Generator().manual_seed(0))
    return Task(lambda: Model(3, 1), nn.functional.mse_loss, (x, x[:, :1]), (x[:8], x[:8, :1]))


def test_times_are_those_without_other_load(clock: Clock) -> None:
    found = time_steps(task(clock), "adamw")
    assert found == pytest.approx({size: 0.02 + 0.001 * size for size in (4, 16, 64, 256)})


def test_steps_that_take_too_long_end_the_list(clock: Clock) -> None:
    assert max(time_steps(task(clock, 5000), "sgd")) == 1024, "a step of 1,024 takes a second"


@pytest.mark.parametrize("optimizer", ["gd_armijo", "newton_cg", "schedule_free_adamw"])
def test_optimizers_that_need_the_loss_again_are_timed_too(clock: Clock, optimizer: str) -> None:
    assert list(time_steps(task(clock, 100), optimizer)) == [4, 16, 64]


def test_too_few_sizes_are_refused(clock: Clock) -> None:
    with pytest.raises(InvalidInput, match="only 2 batch sizes"):
        time_steps(task(clock, 20), "sgd")
