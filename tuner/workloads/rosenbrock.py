"""`rosenbrock`: the curved valley, a deterministic problem whose minimum 0 is at (1, ..., 1).

Reference: Rosenbrock 1960, "An automatic method for finding the greatest or least value of a function", Comput. J.
3(3), https://doi.org/10.1093/comjnl/3.3.175; in more dimensions the sum over neighbours.

    f(θ) = Σ_i 100 (θ_{i+1} - θ_i²)² + (1 - θ_i)²,  from θ = (-1.2, 1, -1.2, 1, ...)

There is no data: examples are blanks, so that a step of batch size B costs B evaluations of the same value, and the
noise scale is 0. Use the smallest batch size.
"""

import torch
from torch import Tensor, nn

from tuner.workloads.parameters import whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task

BLANKS = 1024


@workload("rosenbrock")
def rosenbrock(dimensions: int = 2) -> Task:
    """Rosenbrock's curved valley: deterministic, minimum 0 at (1, ..., 1)."""
    whole_number("dimensions", dimensions, 2, 10_000)
    blanks = torch.zeros(BLANKS, 1)
    return Task(model=lambda: Valley(dimensions), loss=torch.mean, train=(blanks,), valid=(blanks[:1],))


class Valley(nn.Module):
    """The value of the function, once per example; the position is the only parameter."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor([-1.2, 1.0]).repeat(dimensions)[:dimensions].clone())

    def forward(self, blanks: Tensor) -> Tensor:
        """Map blanks [b, 1] to [b], the same value for all."""
        here, there = self.position[:-1], self.position[1:]
        bend, rest = there - here * here, 1 - here
        return (100 * bend * bend + rest * rest).sum() + blanks[:, 0]
