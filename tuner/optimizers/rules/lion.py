"""Lion: the sign of a mixture of momentum and gradient.

Reference: Chen et al. 2023, "Symbolic discovery of optimization algorithms", https://arxiv.org/abs/2302.06675,
algorithm 2.

    p ← p · (1 - lr · weight_decay)
    p ← p - lr · sign(beta1 · m + (1 - beta1) · g)
    m ← beta2 · m + (1 - beta2) · g

State per parameter: exp_avg m, of the parameter's shape, zeros at the start.
Departures: none; the sign of 0 is 0. Every element moves by lr regardless of the gradient's size, so scaling the
gradients changes nothing.
Used with: lr 3-10 times smaller than AdamW's and weight_decay as many times larger.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.entries import below_one, decay_rate
from tuner.optimizers.maths.adam_moments import average
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.sign_momentum import LR, WEIGHT_DECAY, sign_descend


class Lion(ElementwiseRule):
    """Lion with decoupled weight decay."""

    name = "lion"
    summary = "Steps of one size along the sign of momentum mixed with the gradient"
    formula = "p ← p · (1 - lr · weight_decay) - lr · sign(beta1 · m + (1 - beta1) · g)"
    reference = "Chen et al. 2023, https://arxiv.org/abs/2302.06675"
    decay = "decoupled"
    hyperparameters = (
        LR,
        below_one(
            "beta1",
            0.9,
            "weight of the momentum in the direction",
            0.5,
            0.98,
            "ours, around the 0.9-0.95 of Chen et al. 2023, arXiv:2302.06675",
        ),
        decay_rate(
            "beta2",
            0.99,
            "the momentum",
            0.9,
            0.998,
            "Wen et al. 2025, arXiv:2509.02046: best 0.95-0.98, sensitive to scale; wider by us",
            swept=True,
        ),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One moment, for every role."""
        return ("exp_avg",)

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return lr, shrink, the betas and 1 minus each."""
        return {
            "lr": hp["lr"],
            "shrink": 1 - hp["lr"] * hp["weight_decay"],
            "beta1": hp["beta1"],
            "rest1": 1 - hp["beta1"],
            "beta2": hp["beta2"],
            "rest2": 1 - hp["beta2"],
        }

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        exp_avg = buffers["exp_avg"]
        direction = (exp_avg * per_trial(scalars["beta1"], param)).add_(grad * per_trial(scalars["rest1"], param))
        sign_descend(param, direction, scalars["lr"], scalars["shrink"])
        average(exp_avg, grad, scalars["beta2"], scalars["rest2"])
