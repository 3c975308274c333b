"""The ratio of critical batch size to noise scale that is assumed before anything about this study is known.

log10(critical batch / noise scale) per kind of workload, from the tasks for which both were published in table 1 of
McCandlish et al. 2018 (arXiv 1812.06162): mean, standard deviation and number of tasks. The interval is Student's
prediction interval for one more task, t * sd * sqrt(1 + 1/n): a factor 8 either way for classification (and, by our own
judgement, regression), a factor 180 for any other.

Language models trained with Adam are known to have critical batches far above the noise scale (Merrill et al. 2025,
arXiv 2505.23971, report orders of magnitude). Shifting the mean up tenfold and giving only a lower bound is our own
judgement.
"""

import math
from dataclasses import dataclass
from typing import Literal

from tuner.noise.student import two_sided

Kind = Literal["classification", "regression", "language", "other"]
"""What is learnt, as in `tuner.Task`. Other: all else, generative and reinforcement learning included."""


@dataclass(frozen=True)
class Prior:
    """Prior of log10(critical batch / noise scale). `one_sided`: no upper bound is claimed."""

    mean: float
    sd: float
    tasks: int
    one_sided: bool = False

    @property
    def factor(self) -> float:
        """Return the central value of critical batch / noise scale."""
        return float(10**self.mean)

    def half_width(self, confidence: float) -> float:
        """Return the half-width of the prediction interval, in decades."""
        return two_sided(confidence, self.tasks - 1) * self.sd * math.sqrt(1 + 1 / self.tasks)


_DISCRIMINATIVE = Prior(-0.48, 0.30, 5)

PRIORS: dict[Kind, Prior] = {
    "classification": _DISCRIMINATIVE,
    "regression": _DISCRIMINATIVE,
    "language": Prior(1.15, 0.90, 8, one_sided=True),
    "other": Prior(0.15, 0.90, 8),
}
