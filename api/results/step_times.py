"""Step times that a reader of the batch-size advice brings along: of the machine that will train.

The server cannot know them: in a stack the trials share a tick, which is not the time of anybody's lone step.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query

from tuner.errors import Fault, InvalidInput
from tuner.noise import Throughput

MOST_SIZES = 64
LARGEST_BATCH = 2**40
LEAST_S, MOST_S = 1e-9, 1e9
StepTimes = Annotated[
    str | None,
    Query(
        max_length=2000,
        description="seconds of one optimizer step on your hardware by batch size, at least three, for `fastest`",
        examples=["16=0.0031,64=0.0042,256=0.0096"],
    ),
]
TimedOptimizer = Annotated[
    str | None, Query(max_length=64, description="the optimizer that `step_times` belong to; all if left out")
]


@dataclass(frozen=True)
class Timed:
    """A throughput, and the optimizer that it belongs to; None: all."""

    throughput: Throughput
    optimizer: str | None

    def of(self, optimizer: str) -> Throughput | None:
        """Return the throughput of an optimizer."""
        return self.throughput if self.optimizer in (None, optimizer) else None


def read_step_times(text: str | None, optimizer: str | None) -> Timed | None:
    """Read `16=0.0031,64=...`. Raises InvalidInput with every fault."""
    if text is None:
        return None
    times: dict[int, float] = {}
    faults = []
    for part in text.split(",")[: MOST_SIZES + 1]:
        try:
            size, seconds = (read(word) for read, word in zip((int, float), part.split("=", 1), strict=True))
        except ValueError:
            size = seconds = 0
        if not (1 <= size <= LARGEST_BATCH and LEAST_S <= seconds <= MOST_S and size not in times):
            expected = "BATCH=SECONDS, e.g. 64=0.0042, every batch size once"
            faults.append(Fault("step_times", f"holds {part[:40]!r}; expected {expected}"))
        times[int(size)] = float(seconds)
    if len(times) > MOST_SIZES:
        faults.append(Fault("step_times", f"holds more than {MOST_SIZES} batch sizes"))
    if faults:
        raise InvalidInput(faults)
    return Timed(Throughput.of_steps(times), optimizer)
