"""A trial taken out of a stack: everything that its next numbers depend on, bit for bit, kept in memory."""

from dataclasses import dataclass

from torch import Tensor

from tuner.engine.architecture import Tensors
from tuner.engine.progress import Progress
from tuner.engine.trial import TrialSpec


@dataclass(frozen=True)
class Snapshot:
    """Everything of one trial, bit for bit: rows [P], extras, and what has been counted."""

    spec: TrialSpec
    params: Tensor
    sums: Tensor
    slabs: tuple[Tensor, ...]
    pool: Tensor | None
    """The rule's state of other shapes [Q], if it has any."""
    extras: Tensors
    progress: Progress
    elapsed_s: float
    step: int
    tick_in_step: int
