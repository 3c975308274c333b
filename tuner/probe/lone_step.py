"""The time of a lone training step at several batch sizes, as a user's own script would take it.

Plain PyTorch: forward, backward and step of one model with one optimizer, nothing stacked, in training mode, on
examples that are on the device already: reading data is not timed. The batch sizes take turns, so that other load hits
all of them; the least time per step counts, since load only adds.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.errors import InvalidInput
from tuner.optimizers import build
from tuner.optimizers.catalogue import rule_class
from tuner.workloads import Task
from tuner.workloads.task import Data
from tuner.workloads.tree import call

SIZES = (4, 16, 64, 256, 1024, 4096)
"""Tried in this order, as far as there are examples, memory and time."""
FEWEST_SIZES = 3
ROUNDS = 15
SAMPLE_S = 0.01
"""For which a batch size is stepped in one round, at least once."""
LONGEST_S = 1.0
"""A step that takes longer ends the list of batch sizes."""


def time_steps(task: Task, optimizer: str, device: str = "cpu", sizes: Sequence[int] = SIZES) -> dict[int, float]:
    """Return seconds per step by batch size, with the optimizer's default hyperparameters.

    Raises InvalidInput where fewer than three batch sizes can be timed, and for an unknown optimizer.
    """
    step = _Step(task, optimizer, torch.device(device))
    batches: dict[int, Data] = {}
    for size in (size for size in sizes if size <= task.examples):
        batch = step.batch(size)
        try:
            step.seconds(batch, 0.0)  # the first one also allocates
            longest = step.seconds(batch, 0.0)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        batches[size] = batch
        if longest > LONGEST_S:
            break
    if len(batches) < FEWEST_SIZES:
        raise InvalidInput(f"only {len(batches)} batch sizes can be timed here; at least {FEWEST_SIZES} are needed")
    rounds = [{size: step.seconds(batch, SAMPLE_S) for size, batch in batches.items()} for _ in range(ROUNDS)]
    return {size: min(seconds[size] for seconds in rounds) for size in batches}


class _Step:
    """One model with its optimizer on a device."""

    def __init__(self, task: Task, optimizer: str, device: torch.device) -> None:
        self._task, self._device = task, device
        self._model = task.build_model(0).to(device).train()
        self._optimizer = build(optimizer, self._model, roles=task.roles)
        self._kind = rule_class(optimizer)

    def batch(self, size: int) -> Data:
        """Return the first examples, on the device."""
        return tuple(item.to(self._device) for item in self._task.read(np.arange(size)))

    def seconds(self, batch: Data, at_least_s: float) -> float:
        """Return the seconds per step, over as many steps as fit."""
        self._wait()
        steps, begin = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - begin < at_least_s:
            self._take(batch)
            steps += 1
        self._wait()
        return (time.perf_counter() - begin) / steps

    def _take(self, batch: Data) -> None:
        if self._kind.needs_loss:
            self._optimizer.step(lambda: self._loss(batch, backward=not self._kind.needs_curvature))  # type: ignore[arg-type, return-value]
        else:
            self._loss(batch, backward=True)
            self._optimizer.step()

    def _loss(self, batch: Data, *, backward: bool) -> Tensor:
        self._optimizer.zero_grad()
        inputs, targets = self._task.batch_of(batch)
        with torch.autocast(self._device.type, torch.bfloat16, self._task.precision == "bf16"):
            loss = self._task.loss_of(call(self._model, inputs), targets)
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
