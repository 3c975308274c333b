"""NAdamW: AdamW that steps along a one-step lookahead of the first moment.

Reference: Dahl et al. 2023, "Benchmarking neural network training algorithms" (AlgoPerf),
https://arxiv.org/abs/2306.07179, the NAdamW baseline; after Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ.

    p ← p · (1 - lr · weight_decay)
    m ← beta1 · m + (1 - beta1) · g
    v ← beta2 · v + (1 - beta2) · g²
    n = beta1 · m + (1 - beta1) · g
    p ← p - lr / (1 - beta1^t) · n / (sqrt(v) / sqrt(1 - beta2^t) + eps)

State per parameter: exp_avg m and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: none from AlgoPerf. Two algorithms share the name: torch's NAdam warms up its momentum (nadam.py), and
optax.nadamw bias-corrects m and g in n with different step counts.
Used with: AdamW's learning rates and decay, and a larger beta1.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tuner.optimizers.maths.adam_moments import adam_scalars, average, average_squares, root
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.adam_table import BETA1, BETA2, DECOUPLED_DECAY, EPS, LR
from tuner.study.hyperparameter import Search

_ALGOPERF = "AlgoPerf, arXiv:2306.07179, NAdamW search space"


class NAdamW(ElementwiseRule):
    """AlgoPerf's NAdamW: AdamW with a plain Nesterov lookahead."""

    name = "nadamw"
    summary = "AdamW with a plain Nesterov lookahead of the first moment (AlgoPerf's)"
    formula = "p ← p · (1 - lr · weight_decay) - lr · (beta1 · m + (1 - beta1) · g)^ / (√v̂ + eps)"
    reference = "Dahl et al. 2023, https://arxiv.org/abs/2306.07179"
    decay = "decoupled"
    hyperparameters = (
        LR,
        replace(
            BETA1,
            search=Search(
                min=0.9, max=0.996, scaling="reverse_log", source=f"{_ALGOPERF}: 1 - beta1 in 0.004-0.1, log"
            ),
        ),
        BETA2,
        EPS,
        DECOUPLED_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, for every role."""
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the fields of `AdamScalars`."""
        return vars(adam_scalars(step=step, **hp))

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        exp_avg, exp_avg_sq = buffers["exp_avg"], buffers["exp_avg_sq"]
        fresh = average(exp_avg, grad, scalars["beta1"], scalars["rest1"])
        scratch = average_squares(exp_avg_sq, grad, scalars["beta2"], scalars["rest2"])
        ahead = fresh.add_(torch.mul(exp_avg, per_trial(scalars["beta1"], param), out=scratch))
        step = ahead.div_(root(exp_avg_sq, scalars["correction2"], scalars["eps"], scratch))
        param.mul_(per_trial(scalars["shrink"], param)).sub_(step.mul_(per_trial(scalars["step_size"], param)))
