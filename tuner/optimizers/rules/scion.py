"""Scion: each step goes to the point of a norm ball farthest along the negative averaged gradient.

Reference: Pethick et al. 2025, "Training deep learning models with norm-constrained LMOs",
https://arxiv.org/abs/2502.07529, algorithms 1 and 2, table 3; conventions of the authors' code.

    b ← momentum · b + (1 - momentum) · g
    p ← p - lr · radius · D(b)                     constrained: p ← (1 - lr) · p - lr · radius · D(b)

    matrices [m, k]            D = √(m / k) · NewtonSchulz5(b)
    convolutions [m, k, h, w]  D = √(m / k) / (h · w) · NewtonSchulz5(b as [m, k · h · w])
    heads [m, k]               D = sign(b) / k, with head_radius
    embeddings [n, k]          D = each row b / (RMS of the row + 1e-8)
    vectors                    D = b / (RMS of b + 1e-8)

If constrained, no parameter leaves its ball: this is weight decay of 1, coupled to lr.

State per parameter: momentum_buffer b, of the parameter's shape, zeros at the start.
Departures: momentum is the fraction kept, as in all our rules; the authors' is 1 minus that. Newton-Schulz runs in the
parameters' own type, not in bfloat16. The initial weights are the model's own.
Used with: lr 2⁻¹² at radius 50 (lr · radius is about Muon's lr), no warm-up.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import choice, decay_rate, learning_rate, non_negative
from tuner.optimizers.maths.matrix_view import equal_shapes, joined
from tuner.optimizers.maths.newton_schulz import newton_schulz
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial
from tuner.optimizers.sums import row_squares, total_square
from tuner.optimizers.tensors import sign

_PAPER = "Pethick et al. 2025, arXiv:2502.07529"
_FPO = "Wen et al. 2025, arXiv:2509.02046"
_EPS = 1e-8


class Scion(Rule):
    """Steps to the boundary of a norm ball, one norm per role."""

    name = "scion"
    summary = "Steps of fixed size under a norm per role: spectral for matrices, sign for heads, RMS for the rest"
    formula = "b ← momentum · b + (1 - momentum) · g;  p ← p - lr · radius · D(b)"
    reference = "Pethick et al. 2025, https://arxiv.org/abs/2502.07529"
    elementwise = False
    hyperparameters = (
        learning_rate(
            2.5e-4,
            2e-5,
            5e-3,
            f"{_PAPER}: 2⁻¹²; {_FPO}: lr · radius 0.008-0.016 at radius 50; bounds are ours",
            description="learning rate: the step is lr · radius in the parameter's own norm; 0 means no update",
        ),
        decay_rate("momentum", 0.9, "the averaged gradient", 0.8, 0.98, f"{_FPO}: 0.9-0.98; 0.8 ours"),
        non_negative(
            "radius", 50.0, "size of the ball, except for heads", 5.0, 200.0, f"{_PAPER}: 50; bounds are ours"
        ),
        non_negative(
            "head_radius",
            3000.0,
            "size of the ball for heads, as the largest element times the fan-in",
            100.0,
            1e4,
            f"{_PAPER}: 3000; bounds are ours",
        ),
        choice(
            "constrained",
            "no",
            "yes: parameters shrink by 1 - lr before the step, so that they stay inside their balls",
            "yes",
        ),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One averaged gradient, for every role."""
        return ("momentum_buffer",)

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
        buffers, rest = state.buffers["momentum_buffer"], 1 - hp["momentum"]
        for name, grad in grads.items():
            buffer = buffers[name]
            buffer.mul_(per_trial(hp["momentum"], buffer)).add_(grad * per_trial(rest, grad))
        spectral: list[str] = []
        for name, param in params.items():
            role = self.roles.get(name, "vector")
            if role in ("matrix", "convolution"):
                spectral.append(name)
            else:
                radius = hp["head_radius"] if role == "head" else hp["radius"]
                self._step(param, direction_of(buffers[name], role), radius, hp["lr"])
        for names in equal_shapes(spectral, params):  # a batch of products costs less than separate ones
            directions = newton_schulz(joined([buffers[name].flatten(2) for name in names]))
            for name, direction in zip(names, torch.split(directions, len(rest)), strict=True):
                param = params[name]
                radius = hp["radius"] * spectral_scale(param.shape[1:])
                self._step(param, direction.reshape(param.shape), radius, hp["lr"])

    def _step(self, param: Tensor, direction: Tensor, radius: Tensor, lr: Tensor) -> None:
        if self.structure["constrained"] == "yes":
            param.mul_(per_trial(1 - lr, param))
        param.sub_(direction * per_trial(radius * lr, param))


def spectral_scale(shape: tuple[int, ...]) -> float:
    """Return √(m / k) over the number of kernel elements, for a shape (m, k, ...) without the trial axis."""
    return math.sqrt(shape[0] / shape[1]) / math.prod(shape[2:])


def direction_of(averaged: Tensor, role: Role) -> Tensor:
    """Return D(b) of a head, embedding or vector [T, ...]; those of fewer than two dims are vectors."""
    if averaged.dim() > 2 and role == "head":
        return sign(averaged).div_(math.prod(averaged.shape[2:]))
    if averaged.dim() > 2 and role == "embedding":
        rows = averaged.flatten(2)
        size = row_squares(rows).div_(rows.shape[-1]).sqrt_().add_(_EPS)
        return (rows / size.unsqueeze(-1)).reshape(averaged.shape)
    size = total_square(averaged).div_(averaged[0].numel()).sqrt_().add_(_EPS)
    return averaged / per_trial(size, averaged)
