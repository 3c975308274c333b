"""AdEMAMix: AdamW with a second, slow average of the gradient.

Reference: Pagliardini, Ablin and Grangier 2024, "The AdEMAMix optimizer: better, faster, older",
https://arxiv.org/abs/2409.03137, algorithm 1 with the schedulers of section 3.

    p ← p · (1 - lr · weight_decay)
    f ← beta1 · f + (1 - beta1) · g,        f̂ = f / (1 - beta1^t)
    s ← beta3(t) · s + (1 - beta3(t)) · g
    v ← beta2 · v + (1 - beta2) · g²,       v̂ = v / (1 - beta2^t)
    p ← p - lr · (f̂ + alpha(t) · s) / (sqrt(v̂) + eps)

with x = min(t / slow_warmup, 1): alpha(t) = x · alpha, and the logarithm of beta3(t) goes from that of beta1 to that of
beta3 such that the half-life of s grows linearly in t:

    ln beta3(t) = ln beta1 · ln beta3 / ((1 - x) · ln beta3 + x · ln beta1), at most ln beta3

State per parameter: exp_avg f, exp_avg_slow s and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: slow_warmup 0 is legal (no schedulers, as in libraries). The paper sets the warm-up to the length of the
run, which an update rule does not know. The decay comes before the step, which in exact arithmetic is the same. Used
with: AdamW's learning rates; runs long enough to use 1 / (1 - beta3) gradients.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import decay_rate, non_negative, without_zero
from tuner.optimizers.maths.adam_moments import adam_scalars, average, average_squares, root
from tuner.optimizers.maths.power import power, whole_blocks
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.adam_table import BETA1, BETA2, DECOUPLED_DECAY, EPS, LR
from tuner.study.hyperparameter import Hyperparameter, Search

_PAPER = "Pagliardini et al. 2024, arXiv:2409.03137"


class AdEMAMix(ElementwiseRule):
    """AdamW with a fast and a slow average of the gradient."""

    name = "ademamix"
    summary = "AdamW with a second, slow average of the gradient"
    formula = "p ← p · (1 - lr · weight_decay) - lr · (f̂ + alpha · s) / (√v̂ + eps)"
    reference = "Pagliardini, Ablin and Grangier 2024, https://arxiv.org/abs/2409.03137"
    decay = "decoupled"
    hyperparameters = (
        LR,
        BETA1,
        BETA2,
        without_zero(
            decay_rate(
                "beta3",
                0.9999,
                "the slow average",
                0.99,
                0.9999,
                f"{_PAPER}: 0.9999, and 0.999 for short runs; lowered to 0.99 by us for runs of few steps",
                swept=True,
            )
        ),
        non_negative(
            "alpha",
            5.0,
            "weight of the slow average relative to the fast one",
            1.0,
            10.0,
            f"{_PAPER}: 4-10 is good; lowered to 1 by us",
            scaling="linear",
        ),
        Hyperparameter(
            name="slow_warmup",
            default=0.0,
            description="steps in which alpha grows from 0 and beta3 from beta1; 0: none. Best: the length of the run",
            low=0.0,
            integer=True,
            search=Search(min=0.0, max=1000.0, swept=False, source=f"{_PAPER}: the length of the run; the bound ours"),
        ),
        EPS,
        DECOUPLED_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Fast and slow average, and the second moment, for every role."""
        return ("exp_avg", "exp_avg_slow", "exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the fields of `AdamScalars` and the coefficients of the slow average, which has no bias correction."""
        adam = adam_scalars(step=step, **{name: hp[name] for name in ("lr", "beta1", "beta2", "eps", "weight_decay")})
        progress = (step / hp["slow_warmup"]).clamp(max=1.0)  # without warm-up step / 0, so 1
        beta3 = slow_beta(progress, hp["beta1"], hp["beta3"])
        return {
            **vars(adam),
            "beta3": beta3,
            "rest3": 1 - beta3,
            "slow_step_size": hp["lr"] * hp["alpha"] * progress,
        }

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        fast, slow, exp_avg_sq = buffers["exp_avg"], buffers["exp_avg_slow"], buffers["exp_avg_sq"]
        scratch = average(fast, grad, scalars["beta1"], scalars["rest1"])
        average(slow, grad, scalars["beta3"], scalars["rest3"], scratch)
        average_squares(exp_avg_sq, grad, scalars["beta2"], scalars["rest2"], scratch)
        slow_step = torch.mul(slow, per_trial(scalars["slow_step_size"], param), out=scratch)
        step = (fast * per_trial(scalars["step_size"], param)).add_(slow_step)
        step.div_(root(exp_avg_sq, scalars["correction2"], scalars["eps"], scratch))
        param.mul_(per_trial(scalars["shrink"], param)).sub_(step)


def slow_beta(progress: Tensor, beta1: Tensor, beta3: Tensor) -> Tensor:
    """Return beta3(t), at most beta3, at `progress` x in (0, 1] of its warm-up; all float64 [T].

    ln beta3(t) = ln beta3 / (r + x · (1 - r)) with r = ln beta3 / ln beta1, which also holds for beta1 = 0 (r = 0).
    """
    ratio = whole_blocks(torch.log, beta3) / whole_blocks(torch.log, beta1)
    warming = power(beta3[None], 1 / (ratio + progress * (1 - ratio)))[0]
    return torch.where(progress < 1, torch.minimum(warming, beta3), beta3)
