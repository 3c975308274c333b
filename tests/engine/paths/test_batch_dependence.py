"""Whether examples share anything within a micro-batch is found by a dry run, and travels with the kind of task."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from engine_cases import small_task
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from tuner.engine import Stack
from tuner.workloads import Task


class Centred(nn.Module):
    """Batch normalisation by hand: no layer has its name."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, 0.5, self.training)


def summed(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output, target, reduction="sum")


def model(*middle: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(7, 9), *(part() for part in middle), nn.Linear(9, 5))


@pytest.mark.parametrize(
    ("task", "dependent"),
    [
        (small_task(), False),
        (replace(small_task(), model=model(lambda: nn.BatchNorm1d(9))), True),
        (replace(small_task(), model=model(lambda: nn.LayerNorm(9))), False),
        (replace(small_task(), model=model(Centred)), True),
        (replace(small_task(), model=model(lambda: nn.Dropout(0.5))), False),
        (replace(small_task(), model=model(Dropped)), False),
        (replace(small_task(), model=model(Dropped, lambda: nn.BatchNorm1d(9))), True),
        (replace(small_task(), loss=summed), True),
        (replace(small_task(examples=2), model=model(lambda: nn.BatchNorm1d(9))), True),
    ],
)
def test_it_is_found_and_told(task: Task, dependent: bool) -> None:
    stack = Stack(task, width=1, micro_batch=2, path="loop")
    assert stack.program.get("batch_dependent", False) is dependent
    assert stack.program["kind"] == "classification"
