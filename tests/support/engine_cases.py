"""Trials and tasks that the engine's tests share."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import INITIALISATION, derive
from tuner.workloads import Task


def small_task(examples: int = 97, inputs: int = 7, hidden: int = 9, classes: int = 5) -> Task:
    """A little classification problem whose sizes are no multiples of a vector's length."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, inputs, generator=generator)
    y = torch.randint(0, classes, (examples,), generator=generator)
    return Task(
        model=lambda: nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)),
        loss=cross_entropy,
        train=(x, y),
        valid=(x[:20], y[:20]),
        metrics={"accuracy": lambda output, target: (output.argmax(1) == target).double().mean()},
    )


def spec(key: int, optimizer: str, *, examples: int = 400, seed: int = 0, **params: Any) -> TrialSpec:
    fields = {name: params.pop(name) for name in ("rungs", "report_every", "divergence_factor") if name in params}
    return TrialSpec(key, {"optimizer": optimizer, "batch_size": 16, **params}, seed, examples, **fields)


def run_until_idle(
    stack: Stack, waiting: list[TrialSpec], until: Any = None
) -> tuple[dict[Any, list[Row]], dict[Any, Ended]]:
    """Admit trials as slots become free until nothing is left, or `until` has ended; return rows and ends by key."""
    rows: dict[Any, list[Row]] = {}
    ends: dict[Any, Ended] = {}
    queue = list(waiting)
    while (queue or stack.busy) and until not in ends:
        while queue and stack.free:
            stack.admit(queue.pop(0))
        for event in stack.tick():
            if isinstance(event, Ended):
                ends[event.key] = event
            else:
                rows.setdefault(event.key, []).append(event)
    return rows, ends


def solo_model(task: Task, seed: int, dtype: torch.dtype) -> nn.Module:
    return task.build_model(derive(seed, INITIALISATION)).to(dtype)


def batches(task: Task, seed: int, batch_size: int, dtype: torch.dtype, count: int) -> list[tuple[torch.Tensor, ...]]:
    """The first full batches that a trial sees, in order."""
    order = DataOrder(seed, task.examples)
    x, y = task.train
    parts = [torch.from_numpy(order.take(i * batch_size, batch_size)) for i in range(count)]
    return [(x[part].to(dtype), y[part]) for part in parts]
