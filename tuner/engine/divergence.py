"""When the losses of a trial have left for good: judged on the means of whole steps, never on a micro-batch.

A step's mean loss L is judged by the steps before it. With `best` the lowest and `mean` the mean of their losses, and
`first` the loss of the first step, L is far out above

    best + factor · max(|first|, mean - best).

The scale is the size of the loss at the start or the spread above the best since, whichever is larger: multiplying all
losses by a number changes nothing, and losses near zero or below it have a scale too. The trial has diverged when
`PATIENCE` steps in a row are far out; fewer are a spike, and then count as part of the spread.

Invariants: the verdict depends on the step means alone, so not on the micro-batch and not on when losses were read.
Non-finite losses are not judged here: they end a trial at once.
"""

from dataclasses import dataclass

PATIENCE = 8
SETTLED = 8
"""Steps that a spread takes to be known. Before, a loss that has been zero or negative has no scale, so nothing is far
out."""


@dataclass
class Divergence:
    """What the verdict depends on: the first, the lowest and the sum of `steps` losses, and the steps far out since."""

    steps: int = 0
    first: float = 0.0
    best: float = 0.0
    total: float = 0.0
    far: int = 0
    far_total: float = 0.0

    def judge(self, loss: float, factor: float) -> bool:
        """Take note of a step's mean loss, finite; return whether the trial has diverged."""
        if self._far_out(loss, factor):
            self.far += 1
            self.far_total += loss
            return self.far >= PATIENCE
        if not self.steps:
            self.first = self.best = loss
        self.steps += self.far + 1
        self.total += self.far_total + loss
        self.best = min(self.best, loss)
        self.far, self.far_total = 0, 0.0
        return False

    def _far_out(self, loss: float, factor: float) -> bool:
        if not self.steps or (self.best <= 0 and self.steps < SETTLED):
            return False
        scale = max(abs(self.first), self.total / self.steps - self.best)
        return scale > 0 and loss > self.best + factor * scale
