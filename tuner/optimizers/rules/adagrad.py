"""Adagrad: steps divided by the root of the sum of all squared gradients so far.

Reference: Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic
optimization", JMLR 12, https://jmlr.org/papers/v12/duchi11a.html, figure 1, diagonal matrices; conventions of
torch.optim.Adagrad.

    g ← g + weight_decay · p
    s ← s + g²
    p ← p - lr / (1 + (t - 1) · lr_decay) · g / (sqrt(s) + eps)

State per parameter: state_sum s, of the parameter's shape, initial_accumulator_value at the start (kept as zeros until
the first step).
Departures: eps is outside the root, as in torch (optax: inside); a learning rate that decays with lr_decay is torch's,
not the paper's.
Used with: lr about 0.01 to 0.1; on a constant gradient the t-th step is lr / sqrt(t).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import learning_rate, non_negative
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.heavy_ball import WEIGHT_DECAY, penalised


class Adagrad(ElementwiseRule):
    """Adagrad with coupled L2 weight decay."""

    name = "adagrad"
    summary = "Steps divided by the root of the sum of all squared gradients"
    formula = "s ← s + g²;  p ← p - lr · g / (√s + eps)"
    reference = "Duchi, Hazan and Singer 2011, https://jmlr.org/papers/v12/duchi11a.html"
    decay = "l2"
    hyperparameters = (
        learning_rate(
            1e-2,
            1e-3,
            1.0,
            "ours: a decade below and two above the 0.01 of torch and Keras, because the steps only shrink",
            description="learning rate: the size of each element's first step; 0 means no update",
        ),
        non_negative(
            "lr_decay", 0.0, "divides the learning rate of update t by 1 + (t - 1) · lr_decay", 1e-6, 1e-2, "ours"
        ),
        non_negative(
            "initial_accumulator_value",
            0.0,
            "initial value of the sum of squares; a large one makes the first steps smaller",
            1e-6,
            1.0,
            "ours; optax starts with 0.1, torch with 0",
        ),
        non_negative("eps", 1e-10, "added to the root of the sum", 1e-12, 1e-4, "ours; torch 1e-10, optax 1e-7"),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One sum of squares, for every role."""
        return ("state_sum",)

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the coefficients; `initial` is 0 after the first step."""
        return {
            "rate": hp["lr"] / (1 + (step - 1) * hp["lr_decay"]),
            "initial": torch.where(step == 1, hp["initial_accumulator_value"], 0.0),
            "eps": hp["eps"],
            "weight_decay": hp["weight_decay"],
        }

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        state_sum = buffers["state_sum"]
        whole = penalised(grad, param, scalars["weight_decay"])
        squares = whole * whole
        state_sum.add_(per_trial(scalars["initial"], param)).add_(squares)
        denominator = torch.sqrt(state_sum, out=squares).add_(per_trial(scalars["eps"], param))
        param.sub_(whole.div_(denominator).mul_(per_trial(scalars["rate"], param)))
