"""`linear-regression`: synthetic data whose noise scale and best loss are known in closed form.

    x ~ N(0, C), C = diag(i^-decay), i = 1..d;   y = x·w* + noise·ε, ε ~ N(0, 1);   w* = 1/√d in every coordinate
    loss ½ (x·w - y)²;   w starts at 0, so the error e = w - w* has length 1
    expected loss        ½ q,  q = eᵀCe + noise²;  at its minimum, w = w*:  ½ noise²
    expected gradient    G = Ce
    gradient covariance  Σ = qC + Ce eᵀC, so  tr Σ / |G|² = q tr C / |Ce|² + 1   (Gaussian fourth moments)

The data is drawn once, with seed 0. Validation examples have no noise: their loss is ½ eᵀCe, and 0 at the minimum.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tuner.workloads.parameters import number, whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task

VALID_EXAMPLES = 1024
DATA_SEED = 0


@workload("linear-regression")
def linear_regression(dimensions: int = 50, noise: float = 1.0, decay: float = 0.0, examples: int = 8192) -> Task:
    """Linear regression on synthetic data; noise scale and best loss are known in closed form."""
    whole_number("dimensions", dimensions, 1, 10_000)
    number("noise", noise, 0, 1e6)
    number("decay", decay, 0, 10)
    whole_number("examples", examples, 1, 10_000_000)
    generator = np.random.Generator(np.random.PCG64(DATA_SEED))
    spread = np.sqrt(_spectrum(dimensions, decay))
    x = generator.standard_normal((examples + VALID_EXAMPLES, dimensions)) * spread
    y = x.sum(1) / np.sqrt(dimensions)
    y[:examples] += noise * generator.standard_normal(examples)
    inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    return Task(
        model=lambda: _Linear(dimensions),
        loss=half_squared_error,
        train=(inputs[:examples], targets[:examples]),
        valid=(inputs[examples:], targets[examples:]),
    )


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return ½ (output - target)², the mean over the examples [N]."""
    return 0.5 * mse_loss(output, target)


@dataclass(frozen=True)
class Expected:
    """Expectations at the start. `trace` is tr Σ, `grad_sq` is |G|², `best_loss` is the minimum of the loss."""

    loss: float
    best_loss: float
    trace: float
    grad_sq: float

    @property
    def noise_scale(self) -> float:
        """The gradient noise scale tr Σ / |G|², in examples."""
        return self.trace / self.grad_sq


def expected(dimensions: int = 50, noise: float = 1.0, decay: float = 0.0) -> Expected:
    """Return the closed forms of the module's header at w = 0."""
    spectrum = _spectrum(dimensions, decay)
    q = float(spectrum.mean()) + noise**2
    grad_sq = float((spectrum**2).mean())
    return Expected(q / 2, noise**2 / 2, q * float(spectrum.sum()) + grad_sq, grad_sq)


class _Linear(nn.Module):
    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, d] to [b]."""
        return nn.functional.linear(x, self.weight)[:, 0]


def _spectrum(dimensions: int, decay: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.arange(1, dimensions + 1, dtype=np.float64) ** -decay
