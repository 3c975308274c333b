"""A snapshot of a trial: everything that its further results depend on, bit for bit, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tuner.engine.architecture import Tensors
from tuner.engine.progress import Progress
from tuner.engine.trial import TrialSpec


@dataclass(frozen=True)
class Snapshot:
    """The whole state of one trial, bit for bit: rows [P], extras, and counters."""

    spec: TrialSpec
    params: Tensor
    sums: Tensor
    slabs: tuple[Tensor, ...]
    pool: Tensor | None
    """The rule's pooled state [Q], if any."""
    extras: Tensors
    shared: Mapping[str, str]
    """Name -> digest of what all trials of the stack share: it is not in here."""
    progress: Progress
    elapsed_s: float
    step: int
    tick_in_step: int
