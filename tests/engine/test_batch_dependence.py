"""Whether a loss depends on which examples share a batch is found by running it, not by the names of layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import small_task
from model_kinds import KINDS, VECTOR, task_for, task_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, normalize

from tuner.engine.batch_dependence import depends_on_batch
from tuner.workloads import Task, load

CPU = torch.device("cpu")
DEPENDENT = {"batch norm", "running mean of all", "no running statistics", "own buffers", "grouped convolutions"}


class Plain(nn.Module):
    """A function of the outputs of one layer."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear(x))


class HiddenBehindZero(nn.Module):
    """Batch normalisation whose effect only shows once the last layer has moved away from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.head = nn.Linear(6, 5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    """Every example against all others of the batch."""
    z = normalize(output, dim=1)
    return cross_entropy(z @ z.T, torch.arange(len(z)))


def with_loss(loss: Callable[..., Tensor]) -> Task:
    return replace(small_task(), loss=loss)


def on_disk() -> Task:
    """Big-endian numbers, indexed with an array of numbers."""
    task = task_of("batch norm")
    x, y = (part.numpy() for part in task.train if isinstance(part, Tensor))
    return replace(task, train=(x.astype(">f4"), y))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind: str) -> None:
    assert depends_on_batch(task_of(kind), CPU) == (kind in DEPENDENT)


CASES: dict[str, tuple[Callable[[], Task], bool]] = {
    "random numbers of the model's own": (lambda: task_for(VECTOR, lambda: Plain(lambda x: dropout(x, 0.5))), False),
    "dropout layers": (lambda: task_for(VECTOR, lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(7, 5))), False),
    "minus the batch's mean": (lambda: task_for(VECTOR, lambda: Plain(lambda x: x - x.mean(0))), True),
    "batch norm behind a layer of zeros": (lambda: task_for(VECTOR, HiddenBehindZero), True),
    "batch norm in evaluation mode": (lambda: task_for(VECTOR, lambda: Frozen()), False),
    "a contrastive loss": (lambda: with_loss(contrastive), True),
    "a mean over weighted examples": (
        lambda: with_loss(lambda out, y: cross_entropy(out, y, weight=torch.arange(1.0, 6.0))),
        True,
    ),
    "a huge constant in the loss": (lambda: with_loss(lambda out, y: cross_entropy(out, y) + 1e4), False),
    "data that is not in memory": (on_disk, True),
    "three examples": (lambda: replace(small_task(examples=3), valid=small_task().valid), False),
    "a model that raises": (lambda: task_for(VECTOR, lambda: nn.Linear(8, 5)), False),
    "bf16": (lambda: replace(small_task(), precision="bf16"), False),
    "digits-mlp": (lambda: load("digits-mlp", {}), False),
    "digits-cnn": (lambda: load("digits-cnn", {}), True),
    "digits-cnn without normalisation": (lambda: load("digits-cnn", {"batch_norm": False}), False),
    "noisy-quadratic": (lambda: load("noisy-quadratic", {}), False),
    "rosenbrock": (lambda: load("rosenbrock", {}), False),
}


class Frozen(nn.Module):
    """Fine-tuning with statistics that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(7, 5), nn.BatchNorm1d(5)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_what_else_a_user_may_bring(case: str) -> None:
    build, expected = CASES[case]
    state, numbers = torch.get_rng_state(), np.random.get_state()[1]
    assert depends_on_batch(build(), CPU) == expected
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numbers)
