"""Whether a task's loss depends on which examples share a batch, as with batch normalisation: found by a dry run.

Where every example counts by itself the loss of a batch is additive in its parts. With parts a, b that may come first
and c, d that may come second, of equal sizes, L(a, c) + L(b, d) = L(a, d) + L(b, c) then holds, whatever the layers are
called; random numbers are the same in all four. Training such a model in micro-batches smaller than its batch would
train another function than the user's own script does.
"""

import logging
from dataclasses import replace

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
"""Most examples in a part."""
ROUNDS = 2
"""Models tried, each with examples of its own."""
SHIFT = 0.1
"""Noise on the weights, relative to their size: a part that starts at zero hides what lies before it."""
RELATIVE, ROUNDING = 1e-4, 4e-6
"""How much of the parts' own effect, and of the loss, may be missing from additivity: float32 leaves less."""


def depends_on_batch(task: Task, device: torch.device) -> bool:
    """Return whether the loss of a batch in training mode is anything but the mean of what its examples give alone.

    False where that cannot be tried: with fewer than four examples, or where the model or the loss raises.
    """
    size = min(PART, task.examples // 4)
    if size == 0:
        return False
    try:
        architecture = Architecture(replace(task, precision="float32"), device, torch.float32)
        with architecture.evaluation(), drawing(device):
            found = any(_mixes(architecture, size, number) for number in range(ROUNDS))
    except Exception as error:  # the trials' boundary: the workload's own code runs here; a trial will show the error
        if is_out_of_memory(error):
            raise
        log.info("dependence on the batch was not tried", extra={"action": "dry run", "reason": repr(error)})
        return False
    return found


def _mixes(architecture: Architecture, size: int, number: int) -> bool:
    examples = architecture.task.examples
    index = (np.arange(4 * size) * (examples // (4 * size)) + number) % examples
    data = on_device(architecture.task.read(index), architecture.device, architecture.dtype)
    module = architecture.build(number)
    params, extras = _shifted(dict(module.named_parameters()), number), architecture.extras(module)
    draws = draws_of(number, 0, 2 * size, architecture.device) if architecture.draws else ()

    def loss(first: int, second: int) -> float:
        parts = [slice(first * size, (first + 1) * size), slice(second * size, (second + 1) * size)]
        batch: Data = tuple(torch.cat([item[part] for part in parts]) for item in data)
        draw_from(number, architecture.device)
        return float(architecture.loss(params, extras, draws, *batch)[0])

    losses = [loss(0, 2), loss(1, 3), loss(0, 3), loss(1, 2)]
    mixed = abs(losses[0] + losses[1] - losses[2] - losses[3])
    own = max(losses) - min(losses)
    return bool(mixed > RELATIVE * own + ROUNDING * max(abs(loss) for loss in losses))  # not true of NaN


def _shifted(params: Tensors, seed: int) -> Tensors:
    """Return the trainable parameters with noise on them."""
    generator = torch.Generator().manual_seed(seed)
    shifted = {}
    for name, parameter in params.items():
        if parameter.requires_grad:
            scale = float(parameter.square().mean().sqrt()) if parameter.numel() else 0.0
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            shifted[name] = parameter + SHIFT * (scale or 1.0) * noise
    return shifted
