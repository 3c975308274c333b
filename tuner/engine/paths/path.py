"""Which path a stack takes: what was asked for, unless the model or the machine cannot.

A compiled program is tried also where eager kernels would tell slots apart, since it has kernels of its own. What falls
back says so in one line of the log.
"""

import logging

import torch
from torch import Tensor

from tuner.engine.architecture import Architecture
from tuner.engine.loader import AnyFeed
from tuner.engine.paths.compiled import compiled_forward
from tuner.engine.paths.forward import SLOT_DEPENDENT, TRIED, EagerForward, Forward, LoopForward, fault_of_vmap

log = logging.getLogger(__name__)

PATHS = ("auto", "eager", "loop", "compiled")


def forward_of(
    architecture: Architecture, feed: AnyFeed, path: str, micro_batch: int, params: Tensor, gradients: Tensor
) -> tuple[Forward, bool]:
    """Return the forward program over buffers [width, P], and whether rows of it may share an eager pass."""
    fault = None
    if path in ("auto", "compiled"):
        first = torch.arange(min(architecture.task.examples, TRIED * micro_batch), device=params.device)
        fault = fault_of_vmap(architecture, feed.gather(first), micro_batch)
    program: Forward | None = None
    if path == "compiled" and fault in (None, SLOT_DEPENDENT):
        program = compiled_forward(architecture, params, gradients, feed.sample())
    if program is None and fault is not None:
        log.warning("the model cannot be stacked and runs slot by slot", extra={"action": "path", "reason": fault})
        path = "loop"
    uncompiled = LoopForward if path == "loop" else EagerForward
    return program or uncompiled(architecture, params, gradients), fault is None
