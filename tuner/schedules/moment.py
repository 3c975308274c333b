"""The arguments of a schedule: the point in training, and the schedule's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """All tensors are float64 and broadcast against each other."""

    t: Tensor
    """Updates already done."""
    total: Tensor
    """Total updates."""
    numbers: Mapping[str, Tensor]
    choices: Mapping[str, str]

    @property
    def warm(self) -> Tensor:
        """Return W, the updates of the warm-up; 0 for a schedule without one."""
        return self.numbers["warmup"] * self.total if "warmup" in self.numbers else self.total * 0

    @property
    def progress(self) -> Tensor:
        """Return q: 0 until the end of the warm-up, 1 from the end of training on."""
        return self.progress_from(self.warm)

    def progress_from(self, start: Tensor) -> Tensor:
        """Return 0 up to `start`, then linear to 1 at the end; an interval of zero length is a jump at the end."""
        return ((self.t - start) / (self.total - start).clamp(min=1e-9)).clamp(min=0, max=1)
