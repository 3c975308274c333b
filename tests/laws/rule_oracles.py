"""What the laws of update rules are tested with: a stable problem, random configurations, independent optimizers.

The problem is a noisy quadratic with a closed-form gradient, elementwise, so that a stack and a lone trial see the very
same gradient bits and any difference is the optimizer's. A rule without an oracle here fails its law.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import oracles_first_order
import oracles_line_search
import oracles_matrix
import oracles_sums
import oracles_torch
import torch
from torch import Tensor

from tuner.optimizers.catalogue import rule_class
from tuner.optimizers.rule import Role

SHAPES: dict[str, tuple[int, ...]] = {
    "embedding": (6, 4),
    "conv": (4, 3, 2, 2),
    "tall": (9, 5),
    "wide": (5, 9),
    "head": (3, 5),
    "bias": (3,),
}
ROLES: dict[str, Role] = {
    "embedding": "embedding",
    "conv": "convolution",
    "tall": "matrix",
    "wide": "matrix",
    "head": "head",
    "bias": "vector",
}
Params = dict[str, Tensor]

SOURCES = (oracles_torch, oracles_first_order, oracles_sums, oracles_matrix, oracles_line_search)


def _joined(table: str) -> dict[str, Any]:
    return {name: entry for source in SOURCES for name, entry in getattr(source, table, {}).items()}


STEPPERS: dict[str, Callable[[Params, Mapping[str, Any]], list[Any]]] = _joined("ORACLES")
"""Rule -> from parameters (with `grad`) and hyperparameters of one trial to objects whose `step()` moves them."""

RUNS: dict[str, Callable[[Params, Mapping[str, Any], "Quadratic", int], Params]] = _joined("RUNS")
"""Rule -> a whole run of one trial, for oracles that ask for loss and gradient themselves."""

TOLERANCE: dict[str, float] = _joined("TOLERANCE")
"""Relative and absolute, where not 1e-12."""

STEPS: dict[str, int] = _joined("STEPS")
"""Where not 80."""

ZERO_AT_LR_0: dict[str, set[str]] = _joined("ZERO_AT_LR_0")
"""Rule -> beginnings of the names of state that stays 0 as long as lr is 0."""


def gathering(name: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the tensors of a rule's state that do not stay 0 while lr is 0."""
    still = tuple(ZERO_AT_LR_0.get(name, ()))
    return [tensor for key, tensor in tensors.items() if not (still and key.startswith(still))]


class Quadratic:
    """Gradients curvature · (p - target) + noise(t), elementwise; curvatures 0.02 to 0.3, so lr up to 6 is stable."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.dtype = dtype
        self.curvature = {name: self._draw(shape).abs().clamp(0.02, 0.3) for name, shape in SHAPES.items()}
        self.target = {name: self._draw(shape) for name, shape in SHAPES.items()}
        self.noise = {name: self._draw((8, *shape)) for name, shape in SHAPES.items()}

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=self.dtype)

    def start(self, trials: int) -> Params:
        return {name: self._draw((trials, *shape)) for name, shape in SHAPES.items()}

    def gradients(self, params: Params, step: int) -> Params:
        return {
            name: self.curvature[name] * (param - self.target[name]) + self.noise[name][step % 8]
            for name, param in params.items()
        }

    def at(self, step: int) -> "Curved":
        """Return the loss that the gradients of a step belong to, for trials [T, ...]."""
        return Curved(self, step)


class Curved:
    """Sum of curvature / 2 · (p - target)² + noise(t) · p: loss, gradient and Hessian of every trial."""

    def __init__(self, problem: Quadratic, step: int) -> None:
        self.problem = problem
        self.step = step

    def __call__(self, params: Params) -> tuple[Tensor, Params]:
        loss = 0.0
        for name, param in params.items():
            away = param - self.problem.target[name]
            each = self.problem.curvature[name] / 2 * away * away + self.problem.noise[name][self.step % 8] * param
            loss = loss + each.flatten(1).sum(1, dtype=torch.float64)
        return loss, self.problem.gradients(params, self.step)

    def hessian_vector(self, params: Params, vectors: Params) -> Params:
        return {name: self.problem.curvature[name] * vector for name, vector in vectors.items()}


def configurations(name: str, trials: int, seed: int = 3) -> dict[str, Tensor]:
    """Draw every number of a rule from its search range, one value per trial; what fixes the program is left out."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for h in rule_class(name).hyperparameters:
        if h.fixes_program:
            continue
        assert h.search is not None
        u = torch.rand(trials, generator=generator, dtype=torch.float64)
        low, high = h.search.min, h.search.max
        if h.search.scaling == "log":
            drawn[h.name] = low * (high / low) ** u
        elif h.search.scaling == "reverse_log":
            drawn[h.name] = 1 - (1 - high) * ((1 - low) / (1 - high)) ** u
        else:
            drawn[h.name] = low + (high - low) * u
        if h.integer:
            drawn[h.name] = drawn[h.name].round()
    return drawn


def run_oracle(name: str, params: Params, hp: Mapping[str, Any], problem: Quadratic, steps: int) -> Params:
    """Train one trial with an independent optimizer; returns its parameters."""
    if name in RUNS:
        return RUNS[name](params, hp, problem, steps)
    leaves = {key: param.clone() for key, param in params.items()}
    for leaf in leaves.values():
        leaf.grad = torch.zeros_like(leaf)
    optimizers = STEPPERS[name](leaves, hp)
    for step in range(steps):
        for key, gradient in problem.gradients(leaves, step).items():
            leaves[key].grad.copy_(gradient)
        for optimizer in optimizers:
            optimizer.step()
    assert all(math.isfinite(float(leaf.sum())) for leaf in leaves.values())
    return leaves
