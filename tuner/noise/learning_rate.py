"""How to change the learning rate with the batch size: an interval, never a single number.

    lr' = lr * gain^alpha,     gain = (1 + critical / B) / (1 + critical / B')

The gain grows like B'/B far below the critical batch and stops growing above it; for SGD it is the AdaScale gain, with
alpha 1 in theory (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.6). alpha per kind of optimizer:

- sgd: 0.8 to 1.
- adaptive (the step is normalised elementwise): 0.15 to 1. The square root is the rule for *the same run at another
  batch* (Malladi et al. 2022, arXiv 2205.10287). The *best* learning rate was found to grow with about 0.16 (Marek et
  al. 2025, arXiv 2507.07101); on the public grids of step-law/steplaw (AdamW, language models, betas and decay left
  alone) we fit 0.54 to 0.87 up to the best batch size, and -0.2 to 0.1 above it.
- other (matrix-preconditioned, parameter-free): 0.15 to 1, as no rule is established.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

Scaling = Literal["sgd", "adaptive", "other"]

EXPONENTS: dict[Scaling, tuple[float, float]] = {"sgd": (0.8, 1.0), "adaptive": (0.15, 1.0), "other": (0.15, 1.0)}

SGD_LIKE = frozenset({"sgd", "momentum", "nesterov"})
ADAPTIVE = frozenset("adafactor adagrad adam adamw ademamix amsgrad lamb lion nadam nadamw rmsprop signum".split())
"""Names as in the catalogue."""


@dataclass(frozen=True)
class LearningRate:
    """The learning rate at another batch size. `table` holds (batch size, low, high), batch sizes in examples.

    lr was tuned at batch_size; critical_low, critical_high: interval of the critical batch used for the gain.
    """

    lr: float
    batch_size: int
    scaling: Scaling
    alpha_low: float
    alpha_high: float
    critical_low: float
    critical_high: float
    table: tuple[tuple[int, float, float], ...] = ()

    def at(self, batch_size: float) -> tuple[float, float]:
        """Return the lowest and highest learning rate that the intervals allow at `batch_size` examples, > 0."""
        gains = [gain(self.batch_size, batch_size, critical) for critical in (self.critical_low, self.critical_high)]
        rates = [self.lr * g**alpha for g, alpha in product(gains, (self.alpha_low, self.alpha_high))]
        return min(rates), max(rates)


def scaling_of(family: str) -> Scaling:
    """Return which rule an optimizer family follows; an unknown name gets the widest interval."""
    name = family.lower().replace("-", "_")
    return "sgd" if name in SGD_LIKE else "adaptive" if name in ADAPTIVE else "other"


def gain(old: float, new: float, critical: float) -> float:
    """Return (1 + critical / old) / (1 + critical / new); its limit new / old if critical is infinite."""
    if critical == float("inf"):
        return new / old
    return (1 + critical / old) / (1 + critical / new)
