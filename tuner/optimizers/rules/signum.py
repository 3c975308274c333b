"""Signum: the sign of a moving average of the gradient.

Reference: Bernstein et al. 2018, "signSGD: compressed optimisation for non-convex problems",
https://arxiv.org/abs/1802.04434, algorithm 2.

    p ← p · (1 - lr · weight_decay)
    m ← momentum · m + (1 - momentum) · g
    p ← p - lr · sign(m)

State per parameter: exp_avg m, of the parameter's shape, zeros at the start.
Departures: none; weight decay, which algorithm 2 does not have, is decoupled. The sign of 0 is 0. Momentum 0 is
signSGD, the paper's algorithm 1. It is Lion with both betas equal to momentum.
Used with: Lion's learning rates and decay.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from tuner.optimizers.maths.adam_moments import average
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors
from tuner.optimizers.rules.shared.heavy_ball import MOMENTUM
from tuner.optimizers.rules.shared.sign_momentum import LR, WEIGHT_DECAY, sign_descend
from tuner.study.hyperparameter import Search


class Signum(ElementwiseRule):
    """SignSGD with momentum and decoupled weight decay."""

    name = "signum"
    summary = "Steps of one size along the sign of a moving average of the gradient"
    formula = "m ← momentum · m + (1 - momentum) · g;  p ← p · (1 - lr · weight_decay) - lr · sign(m)"
    reference = "Bernstein et al. 2018, https://arxiv.org/abs/1802.04434"
    decay = "decoupled"
    hyperparameters = (
        LR,
        replace(
            MOMENTUM,
            description="decay of the moving average; 0 is signSGD",
            search=Search(
                min=0.5,
                max=0.99,
                scaling="reverse_log",
                source="ours, around the 0.9 of Bernstein et al. 2018, arXiv:1802.04434",
            ),
        ),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One moment, for every role."""
        return ("exp_avg",)

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return lr, shrink, momentum and `rest` = 1 - momentum."""
        return {
            "lr": hp["lr"],
            "shrink": 1 - hp["lr"] * hp["weight_decay"],
            "momentum": hp["momentum"],
            "rest": 1 - hp["momentum"],
        }

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        average(buffers["exp_avg"], grad, scalars["momentum"], scalars["rest"])
        sign_descend(param, buffers["exp_avg"], scalars["lr"], scalars["shrink"])
