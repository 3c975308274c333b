"""Slow literal float64 references of the matrix rules, one trial and one matrix at a time, from the papers' formulas.

Inverse roots and bases come from eigenvalues of plain matrices, products from `@`: no code is shared with the rules.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Params = dict[str, Tensor]
HIDDEN = ("conv", "tall", "wide")


def by_eigenvalues(matrix: Tensor, exponent: float, ridge: float) -> Tensor:
    """(A + ridge ‖A‖ I)^exponent."""
    damped = matrix + ridge * torch.linalg.matrix_norm(matrix) * torch.eye(len(matrix), dtype=matrix.dtype)
    values, vectors = torch.linalg.eigh(damped)
    return vectors @ torch.diag(values**exponent) @ vectors.T


def adamw_of(params: Params, hp: Mapping[str, Any], eps: str, ratio: str = "fallback_lr_ratio") -> torch.optim.AdamW:
    options = {"betas": (hp["beta1"], hp["beta2"]), "eps": hp[eps], "weight_decay": hp["weight_decay"]}
    return torch.optim.AdamW(params.values(), lr=hp["lr"] * hp[ratio], foreach=False, **options)


class Shampoo:
    """Averaged factors, both sides, root 4, Adam grafting, roots renewed at steps 1, 11, 21, ..."""

    def __init__(self, params: Params, hp: Mapping[str, Any], refresh: int = 10) -> None:
        self.params, self.hp, self.refresh, self.t = params, hp, refresh, 0
        self.state: dict[str, Any] = {}

    def step(self) -> None:
        hp, self.t = self.hp, self.t + 1
        for name, param in self.params.items():
            g = param.grad.reshape(len(param), -1)
            if name not in self.state:
                m, k = g.shape
                zeros = [torch.zeros(m, m), torch.zeros(k, k), torch.zeros(m, k), torch.zeros(m, k)]
                self.state[name] = [z.to(g.dtype) for z in zeros] + [None, None]
            left, right, mean, square, left_root, right_root = self.state[name]
            b1, b2 = hp["beta1"], hp["beta2"]
            left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
            mean, square = b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g**2
            if self.t % self.refresh == 1:
                left_root = by_eigenvalues(left / (1 - b2**self.t), -1 / 4, hp["eps"])
                right_root = by_eigenvalues(right / (1 - b2**self.t), -1 / 4, hp["eps"])
            self.state[name] = [left, right, mean, square, left_root, right_root]
            corrected = mean / (1 - b1**self.t)
            adam = corrected / ((square / (1 - b2**self.t)).sqrt() + hp["graft_eps"])
            step = left_root @ corrected @ right_root
            step *= adam.norm() / step.norm()
            param.mul_(1 - hp["lr"] * hp["weight_decay"]).sub_(hp["lr"] * step.reshape(param.shape))


def _shampoo(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    hidden = {name: params[name] for name in (*HIDDEN, "head")}
    rest = {name: param for name, param in params.items() if name not in hidden}
    return [Shampoo(hidden, hp), adamw_of(rest, hp, "graft_eps")]


ORACLES = {"shampoo": _shampoo}
TOLERANCE = {"shampoo": 1e-9}
