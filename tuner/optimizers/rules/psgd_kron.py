"""PSGD with Kronecker factors: a preconditioner fitted so that it whitens the gradient.

Reference: Li 2018, "Preconditioned stochastic gradient descent", https://arxiv.org/abs/1512.04202; factors that stay in
the group of triangular matrices: Li 2024, https://arxiv.org/abs/2402.11858. Fallback for all other parameters: AdamW.

Matrices [m, k], heads, and convolutions flattened to [out, in · kh · kw]; P = Q'Q with Q = Q_L ⊗ Q_R, both upper
triangular, minimises E[g'P g + v'P⁻¹ v] over gradients g and white noise v:

    m ← momentum · m + (1 - momentum) · g,   m̂ = m / (1 - momentum^t)
    A = Q_L m̂ Q_R',   B_L = ‖Q_R⁻¹‖² (Q_L Q_L')⁻¹,   B_R = ‖Q_L⁻¹‖² (Q_R Q_R')⁻¹
    Q_L ← Q_L - precond_lr · triu(A A' - B_L) Q_L / ‖A A' + B_L‖,   Q_R likewise with A'A, B_R
    u = Q_L'Q_L m̂ Q_R'Q_R,   u ← u · min(1, 1.1 / (RMS(u) + 1e-6))
    p ← p · (1 - lr · weight_decay) - lr · u

‖A A' + B‖ is a lower bound of the spectral norm: the length of the matrix times its longest row, normalised. Q is
fitted at every step up to 500, then less and less often, down to a fraction `update_share` of the steps from about step
4,000 on; whether a step fits depends only on its number. A side longer than max_dim has Q = I.

Embeddings and vectors: AdamW with lr · fallback_lr_ratio.

State per parameter: exp_avg m, of its shape; left Q_L [m, m], right Q_R [k, k]. Others: exp_avg, exp_avg_sq. Zeros at
the start; Q starts as the identity.
Departures: B_L and B_R are expectations over the noise, which other implementations draw in every step; nothing is
random here. Both factors are rescaled to the same largest element after each fit, which changes no step.
Used with: a third of AdamW's learning rate and three to ten times its weight decay.
"""

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from tuner.optimizers.entries import (
    decay_rate,
    fallback_lr_ratio,
    learning_rate,
    non_negative,
    weight_decay,
    whole_number,
)
from tuner.optimizers.maths.adam_moments import adamw_step, fallback_scalars
from tuner.optimizers.maths.matrix_product import (
    aligned,
    identity,
    in_batches,
    largest_elements,
    multiply,
    norms,
    sum_by_halving,
)
from tuner.optimizers.maths.matrix_view import matrix_shape, picked, rows_where, write_back
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors, per_trial
from tuner.study.hyperparameter import Hyperparameter, Search

_FPO = "Wen et al. 2025, arXiv:2509.02046"
_ALWAYS_UNTIL = 500
_RARER = 1e-3
_TINY = 1e-30


class PSGDKron(Rule):
    """Whitening by triangular Kronecker factors for matrices, AdamW for embeddings and vectors."""

    name = "psgd_kron"
    summary = "Gradients whitened by Kronecker factors that are fitted along the way"
    formula = "p ← p · (1 - lr · weight_decay) - lr · clip(Q_L'Q_L m̂ Q_R'Q_R)"
    reference = "Li 2018, https://arxiv.org/abs/1512.04202"
    memory = "1 + (m² + k²) / (m k) for matrices, 2 for the rest"
    elementwise = False
    periodic = True
    decay = "decoupled"
    hyperparameters = (
        learning_rate(1e-3, 1e-4, 1e-2, f"includes the best of {_FPO}: 5e-4-1e-3; bounds are ours"),
        decay_rate("momentum", 0.9, "the averaged gradient", 0.8, 0.98, f"includes best of {_FPO}: 0.95; bounds ours"),
        non_negative(
            "precond_lr", 0.1, "step size of the factors, at most 1", 0.05, 0.4, f"{_FPO}: best 0.2; bounds are ours"
        ),
        weight_decay(0.0, 5e-3, 1.0, f"includes the best of {_FPO}: 0.5-0.7; lower bound ours"),
        fallback_lr_ratio(
            1.0, "embeddings and vectors", 0.3, 10.0, "3 is AdamW's own by the rule of a third; bounds are ours"
        ),
        decay_rate("beta2", 0.99, "AdamW's second moment in the fallback", 0.9, 0.999, "ours"),
        non_negative(
            "eps", 1e-8, "added to the root of AdamW's second moment", 1e-10, 1e-6, f"{_FPO}: flat; bounds are ours"
        ),
        whole_number("max_dim", 8192, "longest side that gets a factor", 0, 512, 8192),
        Hyperparameter(
            name="update_share",
            default=0.03,
            description="fraction of the steps that fit the factors in the long run",
            low=0.0,
            low_open=True,
            high=1.0,
            structural=True,
            search=Search(min=0.03, max=1.0, scaling="log", swept=False, source=f"{_FPO}: 0.1; bounds are ours"),
        ),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One averaged gradient for preconditioned parameters, two moments for the rest."""
        return ("exp_avg",) if _preconditioned(role) else ("exp_avg", "exp_avg_sq")

    def pools(self, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
        """The factors."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            for side, size in self._sides(name, shape).items():
                found.setdefault(side, {})[name] = (size, size)
        return found

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        state.advance()
        scalars = fallback_scalars(state.step, hp, beta1=hp["momentum"], eps=hp["eps"])
        due = [fits(count, float(self.structure["update_share"])) for count in state.counts]
        for name, param in params.items():
            mean = state.buffers["exp_avg"][name]
            if not _preconditioned(self.roles.get(name, "vector")):
                adamw_step(grads[name], param, mean, state.buffers["exp_avg_sq"][name], scalars)
                continue
            mean.mul_(per_trial(scalars.beta1, mean)).add_(grads[name] * per_trial(scalars.rest1, mean))
            corrected = mean / per_trial(1 - power(hp["momentum"][None], state.step)[0], mean)
            factors = {side: state.pools[side][name] for side in self._sides(name, param.shape[1:])}
            if any(count == 1 for count in state.counts):
                for factor in factors.values():
                    first = per_trial(state.step == 1, factor).bool()
                    factor.copy_(torch.where(first, identity(factor), factor))
            if factors and any(due):
                _fit(factors, corrected, hp["precond_lr"], rows_where(due, param.device))
            direction = _whitened(factors, corrected)
            mean_square = norms(direction).to(torch.float64) / math.sqrt(direction[0].numel())
            shorter = (1.1 / (mean_square + 1e-6)).clamp(max=1.0)
            param.mul_(per_trial(1 - hp["lr"] * hp["weight_decay"], param))
            param.sub_(direction * per_trial(hp["lr"] * shorter, param))

    def _sides(self, name: str, shape: torch.Size) -> dict[str, int]:
        """Return the sides that have a factor, with their length."""
        if not _preconditioned(self.roles.get(name, "vector")):
            return {}
        lengths = dict(zip(("left", "right"), matrix_shape(shape), strict=True))
        return {side: length for side, length in lengths.items() if length <= float(self.structure["max_dim"])}


def fits(count: int, share: float) -> bool:
    """Return whether step `count` (1 for the first) fits the factors, if eventually a `share` of the steps does."""
    steps, last, period = _schedule(share)
    return count in steps if count <= last else (count - last) % period == 0


@cache
def _schedule(share: float) -> tuple[frozenset[int], int, int]:
    """Return the steps that fit while fits become rarer, the last of them, and the period after it."""
    steps, count, waited = set(), 0, 0
    while True:
        wanted = min(1.0, max(share, math.exp(-_RARER * (count - _ALWAYS_UNTIL))))
        count, waited = count + 1, waited + 1
        if waited >= 1 / wanted:
            steps.add(count)
            waited = 0
            if wanted == share and count > _ALWAYS_UNTIL:
                return frozenset(steps), count, math.ceil(1 / share)


def _fit(factors: Tensors, corrected: Tensor, rate: Tensor, rows: Tensor | None) -> None:
    """Move the factors {side: [T, m, m]} of the trials in `rows` by one relative gradient step, in place."""
    mean, rate = picked(corrected, rows).flatten(2), picked(rate, rows)
    q = {side: aligned(picked(factor, rows)) for side, factor in factors.items()}
    a = aligned(mean)
    if "left" in q:
        a = multiply(q["left"], a)
    if "right" in q:
        a = multiply(a, q["right"].mT)
    inverse = {side: _inverse(factor, factors[side].shape[1]) for side, factor in q.items()}
    other = {"left": "right", "right": "left"}
    lengths = {"left": mean.shape[1], "right": mean.shape[2]}
    fresh = {}
    for side, factor in q.items():
        against = other[side]
        weight = sum_by_halving(inverse[against] * inverse[against]) if against in inverse else None
        noise = multiply(inverse[side].mT, inverse[side])
        noise = noise * (lengths[against] if weight is None else weight.reshape(-1, 1, 1))
        signal = multiply(a, a.mT) if side == "left" else multiply(a.mT, a)
        whole = signal + noise
        largest = largest_elements(whole).reshape(-1, 1, 1)
        scale = per_trial(rate, noise) / (_norm_bound(whole / largest) + _TINY).reshape(-1, 1, 1)
        fresh[side] = factor - multiply(((signal - noise) / largest).triu_() * scale, factor)
    sizes = {side: factor.abs().amax((1, 2)) for side, factor in fresh.items()}
    for side, factor in fresh.items():
        if len(fresh) == 2:
            factor = factor * (sizes[other[side]] / sizes[side]).sqrt_().reshape(-1, 1, 1)
        size = factors[side].shape[1]
        write_back(factors[side], rows, factor[:, :size, :size])


def _whitened(factors: Tensors, corrected: Tensor) -> Tensor:
    """Return Q_L'Q_L m Q_R'Q_R of m [T, m, ...]."""
    flat = corrected.flatten(2)
    result = aligned(flat)
    if "left" in factors:
        q = aligned(factors["left"])
        result = multiply(q.mT, multiply(q, result))
    if "right" in factors:
        q = aligned(factors["right"])
        result = multiply(multiply(result, q.mT), q)
    return result[:, : flat.shape[1], : flat.shape[2]].reshape(corrected.shape)


def _inverse(factor: Tensor, size: int) -> Tensor:
    """Return the inverse of aligned upper triangular [n, M, M], zero beyond `size`."""
    padded = factor.clone()
    padded.diagonal(dim1=1, dim2=2)[:, size:] = 1
    eye = identity(padded)
    result = in_batches(lambda part: torch.linalg.solve_triangular(part, eye.expand_as(part), upper=True), padded)
    result.diagonal(dim1=1, dim2=2)[:, size:] = 0
    return result.contiguous()


def _norm_bound(symmetric: Tensor) -> Tensor:
    """Return [n], no more than the spectral norms of [n, M, M]: ‖S x‖ with x the longest row, made a unit vector.

    The largest elements are about 1: squares of squared gradients would leave the range of float32.
    """
    count, size, _ = symmetric.shape
    lengths = sum_by_halving((symmetric * symmetric).reshape(-1, size)).reshape(count, size)
    longest = lengths.argmax(1).reshape(-1, 1, 1).expand(-1, 1, size)
    row = symmetric.gather(1, longest)
    unit = row / (norms(row).reshape(-1, 1, 1) + _TINY)
    image = sum_by_halving((symmetric * unit).reshape(-1, size)).reshape(count, size)
    return norms(image)


def _preconditioned(role: Role) -> bool:
    return role in ("matrix", "convolution", "head")
