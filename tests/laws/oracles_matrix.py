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


def ramped_basis(factor: Tensor) -> Tensor:
    """Eigenvectors, largest first, of the factor with SOAP's ramp of 1e-3 ‖A‖ to 1e-3 ‖A‖ / m on the diagonal."""
    size = len(factor)
    ramp = torch.diag(torch.linspace(1, 1 / size, size, dtype=factor.dtype)) * 1e-3
    return torch.linalg.eigh(factor + torch.linalg.matrix_norm(factor) * ramp)[1].flip(1)


class Soap:
    """As the authors' code: momentum kept in the parameter's own axes, the first step only starts the bases."""

    def __init__(self, params: Params, hp: Mapping[str, Any], flat: tuple[str, ...], refresh: int = 10) -> None:
        self.params, self.hp, self.flat, self.refresh, self.t = params, hp, flat, refresh, -1
        self.state: dict[str, Any] = {}

    def step(self) -> None:
        hp, self.t = self.hp, self.t + 1
        beta, b1, b2 = hp["shampoo_beta"], hp["beta1"], hp["beta2"]
        for name, param in self.params.items():
            g = param.grad.reshape(1, -1) if name in self.flat else param.grad.reshape(len(param), -1)
            if self.t == 0:
                left, right = (1 - beta) * g @ g.T, (1 - beta) * g.T @ g
                bases = [torch.eye(len(a), dtype=g.dtype) for a in (left, right)]
                if name not in self.flat:
                    bases = [ramped_basis(left), ramped_basis(right)]
                self.state[name] = [left, right, *bases, torch.zeros_like(g), torch.zeros_like(g)]
                continue
            left, right, ql, qr, mean, square = self.state[name]
            mean = b1 * mean + (1 - b1) * g
            square = b2 * square + (1 - b2) * (ql.T @ g @ qr) ** 2
            size = hp["lr"] * (1 - b2**self.t) ** 0.5 / (1 - b1**self.t)
            step = ql @ ((ql.T @ mean @ qr) / (square.sqrt() + hp["eps"])) @ qr.T
            param.sub_(size * step.reshape(param.shape)).mul_(1 - hp["lr"] * hp["weight_decay"])
            left, right = beta * left + (1 - beta) * g @ g.T, beta * right + (1 - beta) * g.T @ g
            if self.t % self.refresh == 0 and name not in self.flat:
                ql, square = self.turned(left, ql, square)
                qr, square_t = self.turned(right, qr, square.T)
                square = square_t.T
            self.state[name] = [left, right, ql, qr, mean, square]

    @staticmethod
    def turned(factor: Tensor, basis: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        moved = factor @ basis + 1e-6 * torch.linalg.matrix_norm(factor) * basis
        order = torch.argsort((basis * moved).sum(0), descending=True)
        return torch.linalg.qr(moved[:, order])[0], square[order]


class Steepest:
    """Without the dual factor: UV' from the singular value decomposition, rows of RMS 1 for embeddings and vectors."""

    def __init__(self, params: Params, hp: Mapping[str, Any]) -> None:
        self.params, self.hp = params, hp
        self.mean = {name: torch.zeros_like(param) for name, param in params.items()}

    def step(self) -> None:
        hp, mass = self.hp, {"embedding": "embedding_mass", "head": "head_mass", "bias": "vector_mass"}
        for name, param in self.params.items():
            self.mean[name] = hp["momentum"] * self.mean[name] + (1 - hp["momentum"]) * param.grad
            b = self.mean[name].reshape(1 if name == "bias" else len(param), -1)
            if name in ("embedding", "bias"):
                direction = b / b.square().mean(1, keepdim=True).sqrt()
            else:
                u, _, v = torch.linalg.svd(b, full_matrices=False)
                direction = (b.shape[0] / b.shape[1]) ** 0.5 * u @ v
            size = hp["lr"] * hp.get(mass.get(name, ""), 1.0)
            param.mul_(1 - hp["lr"] * hp["weight_decay"]).sub_(size * direction.reshape(param.shape))


class Kron:
    """Both factors fitted at every step (as up to step 500), with the noise's expectation in its place."""

    def __init__(self, params: Params, hp: Mapping[str, Any]) -> None:
        self.params, self.hp, self.t = params, hp, 0
        self.state: dict[str, Any] = {}

    def step(self) -> None:
        hp, self.t = self.hp, self.t + 1
        for name, param in self.params.items():
            g = param.grad.reshape(len(param), -1)
            if name not in self.state:
                self.state[name] = [torch.zeros_like(g), *(torch.eye(n, dtype=g.dtype) for n in g.shape)]
            mean, ql, qr = self.state[name]
            mean = hp["momentum"] * mean + (1 - hp["momentum"]) * g
            corrected = mean / (1 - hp["momentum"] ** self.t)
            a = ql @ corrected @ qr.T
            il, ir = torch.linalg.inv(ql), torch.linalg.inv(qr)
            fitted_l = self.fitted(ql, a @ a.T, (ir * ir).sum() * torch.linalg.inv(ql @ ql.T))
            fitted_r = self.fitted(qr, a.T @ a, (il * il).sum() * torch.linalg.inv(qr @ qr.T))
            self.state[name] = [mean, fitted_l, fitted_r]
            step = fitted_l.T @ fitted_l @ corrected @ fitted_r.T @ fitted_r
            step *= min(1.0, 1.1 / (float(step.square().mean().sqrt()) + 1e-6))
            param.mul_(1 - hp["lr"] * hp["weight_decay"]).sub_(hp["lr"] * step.reshape(param.shape))

    def fitted(self, q: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        total = signal + noise
        row = total[total.norm(dim=1).argmax()]
        bound = (total @ (row / row.norm())).norm()
        return q - self.hp["precond_lr"] / bound * torch.triu(signal - noise) @ q


def _kron(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    hidden = {name: params[name] for name in (*HIDDEN, "head")}
    rest = {name: param for name, param in params.items() if name not in hidden}
    return [Kron(hidden, hp), adamw_of(rest, {**hp, "beta1": hp["momentum"]}, "eps")]


ORACLES = {
    "psgd_kron": _kron,
    "steepest": lambda params, hp: [Steepest(params, hp)],
    "shampoo": _shampoo,
    "soap": lambda params, hp: [Soap(params, hp, flat=("embedding", "bias"))],
}
TOLERANCE = {"soap": 1e-9, "psgd_kron": 1e-9}
