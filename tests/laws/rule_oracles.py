"""What the laws of update rules are tested with: a stable problem, random configurations, independent optimizers.

The problem is a noisy quadratic with a closed-form gradient, elementwise, so that a stack and a lone trial see the very
same gradient bits and any difference is the optimizer's. A rule without an oracle here fails its law.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tuner.optimizers import catalogue
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
Oracle = Callable[[Params], None]


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


def configurations(name: str, trials: int, seed: int = 3) -> dict[str, Tensor]:
    """Draw every hyperparameter of a rule from its search range, one value per trial."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for h in catalogue()[name].hyperparameters:
        assert h.search is not None
        u = torch.rand(trials, generator=generator, dtype=torch.float64)
        low, high = h.search.min, h.search.max
        if h.search.scaling == "log":
            drawn[h.name] = low * (high / low) ** u
        elif h.search.scaling == "reverse_log":
            drawn[h.name] = 1 - (1 - high) * ((1 - low) / (1 - high)) ** u
        else:
            drawn[h.name] = low + (high - low) * u
    return drawn


def polar_by_newton_schulz(grad: Tensor, coefficients: tuple[float, ...], steps: int, eps: float) -> Tensor:
    """The textbook loop on one matrix, in place of torch's, which rounds to bfloat16."""
    a, b, c = coefficients
    x = grad.T if grad.shape[0] > grad.shape[1] else grad
    x = x / max(float(torch.linalg.matrix_norm(x)), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.shape[0] > grad.shape[1] else x


def _sgd(params: Params, hp: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(params.values(), lr=hp["lr"], weight_decay=hp["weight_decay"], foreach=False)]


def _momentum(params: Params, hp: Mapping[str, float], nesterov: bool = False) -> list[torch.optim.Optimizer]:
    options = {"momentum": hp["momentum"], "weight_decay": hp["weight_decay"], "nesterov": nesterov}
    return [torch.optim.SGD(params.values(), lr=hp["lr"], foreach=False, **options)]


def _adamw(params: Params, hp: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    options = {"betas": (hp["beta1"], hp["beta2"]), "eps": hp["eps"], "weight_decay": hp["weight_decay"]}
    return [torch.optim.AdamW(params.values(), lr=hp["lr"], foreach=False, **options)]


def _muon(params: Params, hp: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    # torch's Muon takes 2-D parameters alone: a convolution is flattened, and shares its memory.
    matrices = {name: params[name] for name in ("conv", "tall", "wide")}
    flat = []
    for param in matrices.values():
        leaf = param.detach().reshape(param.shape[0], -1)
        leaf.grad = param.grad.reshape(leaf.shape)
        flat.append(leaf)
    rest = {name: param for name, param in params.items() if name not in matrices}
    hidden = torch.optim.Muon(flat, lr=hp["lr"], momentum=hp["momentum"], weight_decay=hp["weight_decay"])
    return [hidden, *_adamw(rest, {**hp, "lr": hp["lr"] * hp["fallback_lr_ratio"]})]


_ORACLES = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": lambda params, hp: _momentum(params, hp, nesterov=True),
    "adamw": _adamw,
    "muon": _muon,
}


def run_oracle(name: str, params: Params, hp: Mapping[str, float], problem: Quadratic, steps: int) -> Params:
    """Train one trial with torch's own optimizers; returns its parameters."""
    leaves = {key: param.clone() for key, param in params.items()}
    for leaf in leaves.values():
        leaf.grad = torch.zeros_like(leaf)
    optimizers = _ORACLES[name](leaves, hp)
    for step in range(steps):
        for key, gradient in problem.gradients(leaves, step).items():
            leaves[key].grad.copy_(gradient)
        for optimizer in optimizers:
            optimizer.step()
    assert all(math.isfinite(float(leaf.sum())) for leaf in leaves.values())
    return leaves
