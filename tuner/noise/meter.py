"""Noise measurement for a user's own training loop that accumulates gradients.

    meter = Meter(micro_batch=8)
    for batch in batches:
        for part in batch.split(8):
            (loss(part) / parts).backward()
            meter.micro(model.parameters())
        meter.step()
        optimizer.step(); optimizer.zero_grad()
    print(meter.estimate().describe())

`.grad` holds the sum accumulated so far in the step, as usual; the increment of each micro-batch is found by
differencing, which costs one more copy of the gradients. Keep gradients in float32: in bfloat16 the increments drown in
the sum. All micro-batches of a step are at the same parameters, and clipping, unscaling or weight decay that writes
into `.grad` comes after `step`. Every step begins with zeroed gradients; one that goes on with the sum of the step
before is refused, since that sum would count as noise.

torch is imported on first use, so that the estimators work without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tuner.errors import Fault, InvalidInput
from tuner.noise.carried import Carried
from tuner.noise.estimator import Estimate, NoiseScale
from tuner.noise.sums import NoiseSums

if TYPE_CHECKING:
    from torch import Tensor


class Meter:
    """Measures the noise scale, in examples, while gradients accumulate.

    micro_batch: examples per micro-batch, every loss being a *mean* over them; divided: whether each loss was divided
    by the number of micro-batches before backward, so that `.grad` ends as the mean gradient (True) or as the sum
    (False); confidence and dataset_size as in `NoiseScale`. `skipped` counts steps with non-finite gradients,
    which are left out entirely (an overflow under mixed precision).
    """

    def __init__(
        self, micro_batch: int, confidence: float = 0.95, dataset_size: float | None = None, divided: bool = True
    ) -> None:
        if not micro_batch >= 1:
            raise InvalidInput([Fault("micro_batch", f"is {micro_batch!r}; allowed is a whole number >= 1")])
        self.micro_batch = micro_batch
        self.divided = divided
        self.skipped = 0
        self.dataset_size = dataset_size
        self._scale = NoiseScale(confidence, dataset_size)
        self._since = NoiseSums()
        self._count = 0
        self._before: dict[int, Tensor] = {}
        self._carried = Carried()
        self._squared: Tensor | None = None

    def micro(self, parameters: Iterable[Tensor]) -> None:
        """Record one micro-batch, right after its backward; pass the same parameters in the same order each time.

        Parameters without a gradient count as zero. Nothing is read back from the device here.
        """
        import torch

        squared: Tensor | None = None
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                if parameter.grad is None:
                    continue
                grad = parameter.grad.float()
                if self._count == 0:
                    self._carried.compare(index, parameter.grad, grad)
                self._carried.note(index, parameter.grad)
                before = self._before.get(index)
                increment = grad if before is None else grad - before
                part = torch.linalg.vector_norm(increment) ** 2
                squared = part if squared is None else squared + part.to(squared.device)
                # always clone: .grad itself must not be kept, since backward adds to it in place
                self._before[index] = grad.clone() if before is None else before.copy_(grad)
        self._count += 1
        if squared is not None:
            self._squared = squared if self._squared is None else self._squared + squared

    def step(self) -> None:
        """Close the optimizer step, before the optimizer's own.

        Raises:
            InvalidInput: there were fewer than two micro-batches, or the gradients were not zeroed before the first.
        """
        import torch

        count, before, squared = self._count, self._before, self._squared
        self._count, self._before, self._squared = 0, {}, None
        not_zeroed = count > 0 and self._carried.closes(count, before)
        if not_zeroed:
            message = "still held the last step's sum; call zero_grad() after each step, before the next backward"
            raise InvalidInput([Fault("grad", message)])
        if count < 2:
            raise InvalidInput([Fault("micro", f"was called {count} times in this step; allowed is 2 or more")])
        total = 0.0 if squared is None else float(squared)
        accumulated = sum(float(torch.linalg.vector_norm(grad)) ** 2 for grad in before.values())
        # x_k = K * increment if losses were divided by K, or else the increment itself.
        small = count * total if self.divided else total / count
        big = accumulated if self.divided else accumulated / count**2
        if math.isfinite(small) and math.isfinite(big):
            self._scale.add(small, big, self.micro_batch, count)
            self._since += NoiseSums.of_step(small, big, self.micro_batch, count)
        else:
            self.skipped += 1

    def take(self) -> NoiseSums:
        """Return the sums of the steps closed since the last call: what a trial reports (`report(noise=meter)`)."""
        taken, self._since = self._since, NoiseSums()
        return taken

    def estimate(self) -> Estimate:
        """Estimate from all closed steps."""
        return self._scale.estimate()
