"""How long an optimizer step takes at a batch size: overhead + batch size * time per example.

The batch size at which the two are equal gives half of the peak examples per second; with the critical batch size it
decides which batch size is fastest. As seconds per example = seconds_per_example (1 + half batch / B), it is fitted to
measured steps as a critical batch is to steps to a target (`fit_tradeoff`), with the same kind of interval: what a
straight line misses widens it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import Fault, InvalidInput
from tuner.noise.tradeoff import fit_tradeoff

FEWEST_SIZES = 3
"""Two sizes fix the line, and nothing tells how far it is off."""


@dataclass(frozen=True)
class Throughput:
    """Time of one optimizer step at batch B: overhead_s + seconds_per_example * B.

    low, high: interval of the half batch, in examples, 0 and infinity possible; None where the times are taken as
    exact. largest: the largest batch size that was timed, None if unknown. Raises InvalidInput unless both times are
    finite and >= 0, and one of them above.
    """

    overhead_s: float
    seconds_per_example: float
    low: float | None = None
    high: float | None = None
    largest: float | None = None

    def __post_init__(self) -> None:
        faults = [
            Fault(name, f"is {value!r}; allowed is a finite number >= 0")
            for name, value in (("overhead_s", self.overhead_s), ("seconds_per_example", self.seconds_per_example))
            if not (math.isfinite(value) and value >= 0)
        ]
        if not faults and self.overhead_s == self.seconds_per_example == 0:
            faults.append(Fault("seconds_per_example", "is 0, and so is overhead_s; a step takes some time"))
        if faults:
            raise InvalidInput(faults)

    @classmethod
    def of_steps(
        cls, step_times: Mapping[int, float] | Mapping[float, float], confidence: float = 0.95
    ) -> "Throughput":
        """Fit to measured seconds per step, by batch size in examples.

        Raises InvalidInput below three batch sizes, for numbers that are not finite and > 0, and for a confidence
        outside (0, 1).
        """
        faults = [
            Fault(f"step_times[{size}]", f"is {seconds!r}; allowed are batch sizes and seconds that are finite and > 0")
            for size, seconds in step_times.items()
            if not all(math.isfinite(x) and x > 0 for x in (size, seconds))
        ]
        if len(step_times) < FEWEST_SIZES:
            have = f"has {len(step_times)} batch sizes; at least {FEWEST_SIZES} are needed for an interval"
            faults.append(Fault("step_times", have))
        if faults:
            raise InvalidInput(faults)
        sizes = [float(size) for size in step_times]
        fit = fit_tradeoff(sizes, [t / size for size, t in zip(sizes, step_times.values(), strict=True)], confidence)
        return cls(fit.examples_min, fit.steps_min, fit.low, fit.high, max(sizes))

    @property
    def half_batch(self) -> float:
        """Batch size at which half of the peak examples per second are reached; infinite if examples cost nothing."""
        return self.overhead_s / self.seconds_per_example if self.seconds_per_example > 0 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """The half batch's interval, of no width for exact times."""
        half = self.half_batch
        return half if self.low is None else self.low, half if self.high is None else self.high
