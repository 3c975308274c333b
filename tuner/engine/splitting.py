"""Whether the micro-batches of a tick may be computed side by side, or in one pass: found by a dry run.

Both need a loss that is the mean over its batch, a pass that leaves the model's buffers as they are, and no random
numbers but those of dropout layers and `tuner.draws`, which go by each example's position. Where that does not hold, or
cannot be tried, a tick is one micro-batch, and they follow one another.
"""

import logging

import numpy as np
import torch

from tuner.engine.architecture import Architecture, Tensors
from tuner.engine.feed import on_device
from tuner.engine.layers.drawing import draw_from, drawing
from tuner.engine.layers.dropout import draws_of
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.workloads.task import Data, Task

log = logging.getLogger(__name__)

PART = 4
"""Most examples in each of the two parts."""
RELATIVE, ROUNDING = 1e-3, 1e-6
"""How far the loss of a batch may be from the mean of its parts' losses."""


def splits(task: Task, device: torch.device) -> bool:
    """Return whether a batch of a task, whose loss does not depend on the batch, may be computed in parts or whole."""
    size = min(PART, task.examples // 2)
    if size == 0:
        return False
    try:
        architecture = Architecture(task, device, torch.float32)
        with torch.no_grad(), drawing(device):
            return _splits(architecture, size)
    except Exception as error:  # the trials' boundary: the workload's own code runs here; a trial will show the error
        if is_out_of_memory(error):
            raise
        log.info("a tick is one micro-batch", extra={"action": "dry run", "reason": repr(error)})
        return False


def _splits(architecture: Architecture, size: int) -> bool:
    index = np.arange(2 * size)
    batch = on_device(architecture.task.read(index), architecture.device, architecture.dtype)
    module = architecture.build(0)
    params: Tensors = dict(module.named_parameters())
    extras = architecture.extras(module)

    def loss(data: Data, seen: int, seed: int) -> tuple[float, Tensors]:
        draws = draws_of(0, seen, len(data[0]), architecture.device) if architecture.draws else ()
        draw_from(seed, architecture.device)
        value, buffers = architecture.loss(params, extras, draws, *data)
        return float(value), buffers

    whole, buffers = loss(batch, 0, 1)
    changed = any(not torch.equal(buffer, extras[name]) for name, buffer in buffers.items())
    random = loss(batch, 0, 2)[0] != whole
    halves = [loss(tuple(item[part] for item in batch), seen, 1)[0] for part, seen in _halves(size)]
    mean = abs(sum(halves) / 2 - whole) <= RELATIVE * abs(whole) + ROUNDING  # not true of NaN
    return mean and not changed and not random


def _halves(size: int) -> list[tuple[slice, int]]:
    return [(slice(0, size), 0), (slice(size, 2 * size), size)]
