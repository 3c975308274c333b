"""Independent optimizers that torch itself has, for the laws of update rules."""

from collections.abc import Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]


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


ORACLES = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": lambda params, hp: _momentum(params, hp, nesterov=True),
    "adamw": _adamw,
    "muon": _muon,
}
