"""Which path a stack takes: what was asked for, unless the model or the machine cannot.

A compiled program is also tried where eager kernels give different bits in different slots, since it has kernels of its
own. A fallback is logged in one line.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.engine.architecture import Architecture
from tuner.engine.loader import AnyFeed
from tuner.engine.machine.hardware import compiler
from tuner.engine.paths.compiled import compiled_forward
from tuner.engine.paths.dry_run import SLOT_DEPENDENT, TRIED, fault_of_vmap
from tuner.engine.paths.forward import Forward
from tuner.engine.paths.loop import LoopForward
from tuner.engine.paths.together import eager_forward
from tuner.study.hyperparameter import Scalar

log = logging.getLogger(__name__)

PATHS = ("auto", "eager", "loop", "compiled")


@dataclass(frozen=True)
class EnginePath:
    """What a stack runs on, and what follows from it for the stack's other parts."""

    forward: Forward
    stackable: bool
    """Whether several slots may share an eager pass."""

    @property
    def name(self) -> str:
        """`loop`, `eager` or `compiled`."""
        return self.forward.path

    @property
    def compiled(self) -> bool:
        """Whether updates and evaluation are compiled as well."""
        return self.name == "compiled"

    @property
    def together(self) -> int:
        """Slots that may share an evaluation pass, at most."""
        return 1 if self.name == "loop" else len(self.forward.params)

    @property
    def program(self) -> dict[str, Scalar]:
        """Its part of what fixes the floating-point result."""
        return {"path": self.name, **({"compiler": compiler()} if self.compiled else {})}


def path_of(
    architecture: Architecture, feed: AnyFeed, path: str, micro_batch: int, params: Tensor, per_tick: int
) -> EnginePath:
    """Choose the path over the buffer [width, P] of the parameters, for ticks of `per_tick` micro-batches."""
    fault = None
    if path in ("auto", "compiled"):
        first = torch.arange(min(architecture.task.examples, TRIED * per_tick * micro_batch), device=params.device)
        fault = fault_of_vmap(architecture, feed.gather(first), micro_batch, per_tick)
    program: Forward | None = None
    if path == "compiled" and fault in (None, SLOT_DEPENDENT):
        program = compiled_forward(architecture, params, feed.sample(), per_tick)
    if program is None and fault is not None:
        log.warning("the model cannot be stacked and runs slot by slot", extra={"action": "path", "reason": fault})
        path = "loop"
    if program is None and path == "loop":
        program = LoopForward(architecture, params, per_tick)
    elif program is None:
        sample = feed.sample() if architecture.shared.tensors else ()
        program = eager_forward(architecture, params, sample, per_tick)
    return EnginePath(program, fault is None and path != "loop")
