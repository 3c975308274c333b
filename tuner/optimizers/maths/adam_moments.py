"""The mathematics of Adam's two moments, for AdamW itself, its relatives, and rules that fall back to it.

Scalar arithmetic (bias corrections, 1 - beta) is done once per update on float64 vectors [T] and rounded to the
parameters' type last: 1 - float32(0.999) is off by 1.3e-5 relative.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import per_trial


@dataclass(frozen=True)
class AdamScalars:
    """One update's coefficients, each float64 [T]; order and placement as in torch.optim.AdamW."""

    beta1: Tensor
    beta2: Tensor
    rest1: Tensor
    """1 - beta1."""
    rest2: Tensor
    """1 - beta2."""
    step_size: Tensor
    """lr / (1 - beta1^t)."""
    correction2: Tensor
    """sqrt(1 - beta2^t)."""
    eps: Tensor
    shrink: Tensor
    """1 - lr · weight_decay."""


def adam_scalars(
    *, step: Tensor, lr: Tensor, beta1: Tensor, beta2: Tensor, eps: Tensor, weight_decay: Tensor
) -> AdamScalars:
    """Compute the coefficients of update number `step` (1 for the first); all arguments float64 [T]."""
    bias = 1 - power(torch.stack([beta1, beta2]), step)
    return AdamScalars(
        beta1=beta1,
        beta2=beta2,
        rest1=1 - beta1,
        rest2=1 - beta2,
        step_size=lr / bias[0],
        correction2=bias[1].sqrt(),
        eps=eps,
        shrink=1 - lr * weight_decay,
    )


def fallback_scalars(step: Tensor, hp: Mapping[str, Tensor], *, beta1: Tensor, eps: Tensor) -> AdamScalars:
    """Compute AdamW's coefficients for the parameters that a matrix rule leaves to it, at lr · fallback_lr_ratio.

    All are float64 [T]. `beta1` and `eps` are the rule's own, which may have other names; beta2 and weight_decay are
    read from `hp`.
    """
    lr = hp["lr"] * hp["fallback_lr_ratio"]
    return adam_scalars(step=step, lr=lr, beta1=beta1, beta2=hp["beta2"], eps=eps, weight_decay=hp["weight_decay"])


def average(buffer: Tensor, value: Tensor, beta: Tensor, rest: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Set buffer ← beta · buffer + rest · value in place; both [T, ...], beta and rest = 1 - beta [T].

    Returns:
        The temporary tensor that was used, `scratch` if given: allocating large ones costs more than a pass over them.
    """
    fresh = torch.mul(value, per_trial(rest, buffer), out=scratch)
    buffer.mul_(per_trial(beta, buffer)).add_(fresh)
    return fresh


def average_squares(buffer: Tensor, value: Tensor, beta: Tensor, rest: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Set buffer ← beta · buffer + rest · value² in place; otherwise as `average`."""
    fresh = torch.mul(value, value, out=scratch).mul_(per_trial(rest, buffer))
    buffer.mul_(per_trial(beta, buffer)).add_(fresh)
    return fresh


def root(exp_avg_sq: Tensor, correction2: Tensor, eps: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Return sqrt(v) / correction2 + eps, in `scratch` if given: Adam's denominator, with eps outside.

    Args:
        exp_avg_sq: v, [T, ...], e.g. (64, 256, 64); not modified.
        correction2: sqrt(1 - beta2^t), [T].
        eps: [T].
        scratch: like `exp_avg_sq`, overwritten.
    """
    found = torch.sqrt(exp_avg_sq, out=scratch)
    return found.div_(per_trial(correction2, found)).add_(per_trial(eps, found))


def adamw_step(grad: Tensor, param: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, scalars: AdamScalars) -> None:
    """Decay `param`, update both moments and step, in place.

    Args:
        grad: [T, ...], e.g. (64, 256, 64); not modified.
        param: like `grad`.
        exp_avg: first moment, like `grad`.
        exp_avg_sq: second moment, like `grad`.
        scalars: this update's coefficients.
    """
    param.mul_(per_trial(scalars.shrink, param))
    scratch = average(exp_avg, grad, scalars.beta1, scalars.rest1)
    average_squares(exp_avg_sq, grad, scalars.beta2, scalars.rest2, scratch)
    denominator = root(exp_avg_sq, scalars.correction2, scalars.eps, scratch)
    param.sub_(torch.div(exp_avg, denominator, out=scratch).mul_(per_trial(scalars.step_size, param)))
