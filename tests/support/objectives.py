"""Losses of T trials with gradients and Hessian-vector products, for rules that ask for the loss again."""

from collections.abc import Callable

import torch
from torch import Tensor


class Objective:
    """Any differentiable function from positions [T, n] to losses [T], of the one parameter `p`; counts its calls."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        loss, gradient = self._differentiated(params["p"].detach().requires_grad_(), create_graph=False)
        return loss.detach(), {"p": gradient}

    def hessian_vector(self, params: dict[str, Tensor], vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        leaf = params["p"].detach().requires_grad_()
        gradient = self._differentiated(leaf, create_graph=True)[1]
        with torch.enable_grad():
            return {"p": torch.autograd.grad((gradient * vectors["p"]).sum(), leaf)[0]}

    def _differentiated(self, leaf: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            loss = self.function(leaf)
            return loss, torch.autograd.grad(loss.sum(), leaf, create_graph=create_graph)[0]


class WithoutCurvature:
    """The same, but its second derivative is not to be had."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(params)


def rosenbrock(p: Tensor) -> Tensor:
    return (100 * (p[:, 1:] - p[:, :-1] ** 2) ** 2 + (1 - p[:, :-1]) ** 2).sum(1)


def bowls(trials: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor, Objective]:
    """Return positive definite A [T, n, n], b [T, n] and the objective p'A p / 2 - b'p."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(trials, size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + 0.5 * torch.eye(size, dtype=torch.float64)
    linear = torch.randn(trials, size, generator=generator, dtype=torch.float64)

    def value(p: Tensor) -> Tensor:
        return (p * (matrix @ p[:, :, None])[:, :, 0]).sum(1) / 2 - (linear * p).sum(1)

    return matrix, linear, Objective(value)


def starts(trials: int, size: int, seed: int = 1) -> Tensor:
    return torch.randn(trials, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
