"""The input of the advice: one `Measurement` per trial."""

import math
from dataclasses import dataclass

from tuner.errors import Fault, InvalidInput
from tuner.noise.sums import NoiseSums


@dataclass(frozen=True)
class Measurement:
    """One trial. Raises InvalidInput with every fault.

    batch_size: B in examples per optimizer step, constant over the trial; lr: its peak learning rate; family: the
    optimizer's name; value: its final metric, None or non-finite if there is none; completed: whether it ran to its
    end; rows: noise sums in the order of training; micro_batch: b in examples; dataset_size: training examples, None if
    batches are not drawn from a finite set; number: the trial's number in its study.
    """

    batch_size: int
    lr: float
    family: str
    value: float | None
    completed: bool
    rows: tuple[NoiseSums, ...]
    micro_batch: int
    dataset_size: int | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if not (math.isfinite(self.lr) and self.lr > 0):
            faults.append(Fault("lr", f"is {self.lr!r}; allowed is a finite number > 0"))
        if self.micro_batch < 1:
            faults.append(Fault("micro_batch", f"is {self.micro_batch!r}; allowed is a whole number >= 1"))
        elif self.batch_size < self.micro_batch or self.batch_size % self.micro_batch:
            allowed = f"a positive multiple of micro_batch ({self.micro_batch})"
            faults.append(Fault("batch_size", f"is {self.batch_size!r}; allowed is {allowed}"))
        if self.dataset_size is not None and self.dataset_size < 2:
            faults.append(Fault("dataset_size", f"is {self.dataset_size!r}; allowed is a whole number >= 2, or None"))
        if faults:
            raise InvalidInput(faults)

    @property
    def temperature(self) -> float:
        """Learning rate per example of a batch."""
        return self.lr / self.batch_size

    @property
    def ranked(self) -> bool:
        """Whether it can be compared with other trials."""
        return self.completed and self.value is not None and math.isfinite(self.value)

    @property
    def largest_batch(self) -> float:
        """Largest batch that keeps most of the noise when sampling without replacement: a quarter of the set."""
        return math.inf if self.dataset_size is None else self.dataset_size / 4
