"""`noisy-quadratic`: a quadratic bowl whose centre jitters from example to example.

Reference: Zhang et al. 2019, "Which algorithmic choices matter at which batch sizes?", section 3, arXiv:1907.04164.

    loss of example c     ½ Σ h_i (θ_i - c_i)²,  c ~ N(0, noise² I),  h_i = 1/i, i = 1..d;  θ starts at `start`
    expected gradient     G = hθ
    gradient covariance   diag(noise² h²), so  tr Σ / |G|² = noise² Σh² / Σh²θ²,  at the start (noise / start)²
    expected loss         ½ Σ h_i θ_i² + ½ noise² Σ h_i;  the minimum is at θ = 0

The centres are drawn once, with seed 0, and shifted to mean 0, so that θ = 0 is the minimum of the training loss too.
The validation example is c = 0: its loss is the excess over the minimum, ½ Σ h_i θ_i².
"""

import numpy as np
import torch
from torch import Tensor, nn

from tuner.workloads.parameters import number, whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task

DATA_SEED = 0


@workload("noisy-quadratic")
def noisy_quadratic(dimensions: int = 100, noise: float = 1.0, start: float = 1.0, examples: int = 8192) -> Task:
    """A quadratic with curvatures 1, 1/2, ... 1/100 and a jittering centre; noise scale known in closed form."""
    whole_number("dimensions", dimensions, 1, 10_000)
    number("noise", noise, 0, 1e6)
    number("start", start, -1e6, 1e6)
    whole_number("examples", examples, 1, 10_000_000)
    centres = np.random.Generator(np.random.PCG64(DATA_SEED)).standard_normal((examples, dimensions))
    centres -= centres.mean(0)
    return Task(
        model=lambda: Bowl(dimensions, start),
        loss=torch.mean,
        train=(torch.from_numpy(noise * centres).float(),),
        valid=(torch.zeros(1, dimensions),),
    )


class Bowl(nn.Module):
    """The loss of each example; the position is the only parameter."""

    curvature: Tensor

    def __init__(self, dimensions: int, start: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.full((dimensions,), start))
        self.register_buffer("curvature", 1 / torch.arange(1, dimensions + 1, dtype=torch.float64))

    def forward(self, centres: Tensor) -> Tensor:
        """Map centres [b, d] to losses [b]."""
        away = self.position - centres
        return 0.5 * (self.curvature.to(away.dtype) * away * away).sum(1)
