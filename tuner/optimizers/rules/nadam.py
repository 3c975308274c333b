"""NAdam: Adam with Nesterov momentum whose coefficient warms up.

Reference: Dozat 2016, "Incorporating Nesterov momentum into Adam", https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ,
algorithm 2 with the warm-up of Sutskever et al. 2013; conventions of torch.optim.NAdam.

    g ← g + weight_decay · p
    mu(t) = beta1 · (1 - 0.96^(t · momentum_decay) / 2)
    M(t) = mu(1) · ... · mu(t)
    m ← beta1 · m + (1 - beta1) · g
    v ← beta2 · v + (1 - beta2) · g²
    p ← p - lr · [(1 - mu(t)) / (1 - M(t)) · g + mu(t + 1) / (1 - M(t + 1)) · m] / (sqrt(v / (1 - beta2^t)) + eps)

State per parameter: exp_avg m and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: as torch, m is averaged with beta1, not with mu. M is worked out in closed form (`momentum_product`), so
that it depends on the step alone; where beta1 changes on the way (cycled momentum), all factors have the present one,
as in Adam's bias correction, while torch keeps those of their time. weight_decay_mode "decoupled" is torch's
decoupled_weight_decay.
Used with: Adam's learning rates. What AlgoPerf calls NAdamW has no warm-up of mu: see nadamw.py.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tuner.optimizers.entries import non_negative
from tuner.optimizers.maths.adam_moments import average, average_squares, root
from tuner.optimizers.maths.power import power, whole_blocks
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.adam_table import BETA1, BETA2, EPS, LR
from tuner.optimizers.rules.shared.heavy_ball import WEIGHT_DECAY, penalised

_BASE = 0.96
_TERMS = 48
"""Number of terms of the series in `momentum_product`: the next one is below 2^-49 / 49 per step."""
_PIECE = 512
"""Trials per call in `momentum_product`: 512 · 48 elements stay on one thread, so no kernel has a tail."""


class NAdam(ElementwiseRule):
    """NAdam with coupled L2 weight decay."""

    name = "nadam"
    summary = "Adam with Nesterov momentum, its coefficient warming up (torch's NAdam)"
    formula = "p ← p - lr · [(1 - mu_t) / (1 - ∏mu) · g + mu_{t+1} / (1 - ∏mu · mu_{t+1}) · m] / (√v̂ + eps)"
    reference = "Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"
    decay = "l2"
    hyperparameters = (
        replace(LR, default=2e-3),
        BETA1,
        BETA2,
        EPS,
        non_negative(
            "momentum_decay",
            4e-3,
            "how fast the momentum warms up from beta1 / 2 to beta1: halves the gap every ~17 / momentum_decay steps",
            1e-4,
            1e-1,
            "ours, around the 4e-3 of torch and Dozat 2016",
        ),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, for every role."""
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the coefficients; `of_grad` and `of_moment` weigh gradient and first moment."""
        beta1, beta2, decay = hp["beta1"], hp["beta2"], hp["momentum_decay"]
        shares = whole_blocks(_warm_up, torch.stack([step * decay, (step + 1) * decay]))
        mu, mu_next = beta1 * shares
        product = momentum_product(step, beta1, decay)
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "of_grad": hp["lr"] * (1 - mu) / (1 - product),
            "of_moment": hp["lr"] * mu_next / (1 - product * mu_next),
            "correction2": (1 - power(beta2[None], step))[0].sqrt(),
            "eps": hp["eps"],
            "weight_decay": hp["weight_decay"],
        }

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        exp_avg, exp_avg_sq = buffers["exp_avg"], buffers["exp_avg_sq"]
        whole = penalised(grad, param, scalars["weight_decay"])
        scratch = average(exp_avg, whole, scalars["beta1"], scalars["rest1"])
        average_squares(exp_avg_sq, whole, scalars["beta2"], scalars["rest2"], scratch)
        ahead = torch.mul(exp_avg, per_trial(scalars["of_moment"], param), out=scratch)
        step = whole.mul_(per_trial(scalars["of_grad"], param)).add_(ahead)
        param.sub_(step.div_(root(exp_avg_sq, scalars["correction2"], scalars["eps"], scratch)))


def momentum_product(step: Tensor, beta1: Tensor, momentum_decay: Tensor) -> Tensor:
    """Return M(t) = mu(1) · ... · mu(t), the product of the momenta during warm-up, without a loop over the steps.

    With q = 0.96^momentum_decay it is beta1^t · ∏ (1 - q^i / 2), and the logarithm of that product is
    -Σ_k 2^-k / k · Σ_i q^(i·k), a geometric sum in i. The truncated rest is below rounding wherever M is not.

    Args:
        step: t, float64 [T], 1 for the first update.
        beta1: float64 [T].
        momentum_decay: float64 [T].
    """
    pieces = [slice(first, first + _PIECE) for first in range(0, len(step), _PIECE)]
    shares = torch.cat([whole_blocks(_warm_up_product, step[piece], momentum_decay[piece]) for piece in pieces])
    return power(beta1[None], step)[0] * shares


def _warm_up(exponent: Tensor) -> Tensor:
    return 1 - torch.pow(_BASE, exponent) / 2


def _warm_up_product(step: Tensor, momentum_decay: Tensor) -> Tensor:
    """Return ∏ (1 - q^i / 2) for i from 1 to `step`; both [T]."""
    k = torch.arange(1, _TERMS + 1, dtype=torch.float64, device=step.device)[:, None]
    rate = momentum_decay * math.log(_BASE) * k
    below = torch.expm1(rate)
    sums = torch.where(below == 0, step, torch.exp(rate) * torch.expm1(rate * step) / below)
    return torch.exp(-(sums * torch.exp2(-k) / k).sum(0))
