"""Every kind of model and data that docs/workloads.md names gives a trial the same bits, whatever goes on around it."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from model_kinds import CLASSES, IMAGE, KINDS, TOKENS, VECTOR, Attention, task_for, task_of
from test_augmentation import noisy_task
from test_draws import task as drawing_task
from test_kept_weights import Tied
from test_padding import bag
from test_seeded_evaluation import task as sampled_task
from test_transform import task as transformed_task
from test_windows import LENGTH, STRIDE
from test_windows import TOKENS as SEQUENCE
from test_windows import task as windows_task
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

import tuner
from tuner.engine import Stack
from tuner.workloads import Task


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.cells = nn.Embedding(11, 4), nn.LSTM(4, 5, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cells(self.token(tokens))[0][:, -1])  # type: ignore[no-any-return]


class Branching(nn.Module):
    """Control flow on values, and dropout without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return dropout(y, 0.4, self.training) if float(y.detach().sum()) > 0 else y.tanh()


def tied() -> Task:
    tokens = torch.randint(0, 11, (40,), generator=torch.Generator().manual_seed(1))
    return Task(Tied, cross_entropy, (tokens, tokens), (tokens, tokens))


def pretrained() -> Task:
    body = nn.Sequential(nn.Linear(7, 6), nn.Tanh())
    return task_for(VECTOR, lambda: nn.Sequential(body, nn.Linear(6, CLASSES)))


MORE: dict[str, Callable[[], Task]] = {
    "lstm": lambda: task_for(TOKENS, Recurrent),
    "F.dropout and control flow": lambda: task_for(VECTOR, Branching),
    "dropout layers in attention": lambda: task_for(TOKENS, lambda: Attention(0.3)),
    "dropout of channels": lambda: task_for(
        IMAGE, lambda: nn.Sequential(nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(126, CLASSES))
    ),
    "random in evaluation": sampled_task,
    "tied weights": tied,
    "a pretrained body": pretrained,
    "a given module": lambda: replace(pretrained(), model=pretrained().build_model(1)),
    "data that is read": lambda: replace(small_task(), resident=False),
    "data that augments itself": noisy_task,
    "draws of the trial's own": drawing_task,
    "a transform with partners": transformed_task,
    "windows over a sequence": lambda: windows_task(tuner.Windows(SEQUENCE, LENGTH, STRIDE)),
    "a loader that pads": bag,
    "bf16": lambda: replace(small_task(), precision="bf16"),
}


def unsettle(number: int) -> None:
    """Leave the process's generators in some state."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_a_trial_has_the_same_bits(kind: str) -> None:
    """Alone; and beside others, interrupted, and continued in another stack and slot, with other generators."""
    torch.manual_seed(0)
    task = MORE[kind]() if kind in MORE else task_of(kind)
    watched = spec(7, "adamw", lr=0.01, batch_size=8, examples=32, rungs=(16,), report_every=8)

    def seen(rows: list[Any]) -> list[Any]:
        return [(row.step, row.metrics, row.noise) for row in rows]

    unsettle(1)
    alone = Stack(task, width=3, micro_batch=4)
    expected = seen(run_until_idle(alone, [watched])[0][7])
    unsettle(2)
    first, second = Stack(task, width=3, micro_batch=4), Stack(task, width=3, micro_batch=4)
    first.admit(spec(0, "sgd", lr=0.1, batch_size=8, examples=16, seed=3))
    slot = first.admit(watched)
    assert slot is not None
    found = [event for _ in range(5) for event in first.tick() if event.key == 7]
    unsettle(3)
    for key in (1, 2):
        second.admit(spec(key, "momentum", lr=0.1, batch_size=4, examples=8 * key, seed=key))
    second.tick()
    second.tick()
    second.restore(0, first.snapshot(slot))
    found += run_until_idle(second, [])[0][7]
    assert seen(found) == expected and len(expected) == 4
    for stack in (alone, first, second):
        stack.close()
