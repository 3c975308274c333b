"""RMSprop: steps divided by a running root mean square of the gradient.

Reference: Tieleman and Hinton 2012, "Neural networks for machine learning", lecture 6.5,
https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf; centered and with momentum: Graves 2013,
https://arxiv.org/abs/1308.0850, equations (38)-(45); conventions of torch.optim.RMSprop.

    g ← g + weight_decay · p
    s ← alpha · s + (1 - alpha) · g²
    a ← alpha · a + (1 - alpha) · g                         (centered only)
    u = s, or max(s - a², 0) if centered
    b ← momentum · b + g / d,  where d by eps_placement is sqrt(u) + eps (outside) or sqrt(u + eps) (inside)
    p ← p - lr · b

State per parameter: square_avg s, momentum_buffer b and, if centered, grad_avg a, of the parameter's shape, zeros at
the start.
Departures: the averages are not bias-corrected, so the first step is lr / sqrt(1 - alpha). Rounding may make s - a²
negative, which torch turns into NaN; here it is treated as 0.
Used with: AdamW's learning rates or smaller ones; momentum multiplies steps by up to 1 / (1 - momentum).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import choice, decay_rate, learning_rate, non_negative
from tuner.optimizers.maths.adam_moments import average, average_squares
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.heavy_ball import WEIGHT_DECAY, accumulate, penalised
from tuner.study.hyperparameter import Hyperparameter, Search


class RMSprop(ElementwiseRule):
    """RMSprop with coupled L2 weight decay."""

    name = "rmsprop"
    summary = "Steps divided by a running root mean square of the gradient, with momentum"
    formula = "s ← alpha · s + (1 - alpha) · g²;  b ← momentum · b + g / (√s + eps);  p ← p - lr · b"
    reference = "Tieleman and Hinton 2012, lecture 6.5; Graves 2013, https://arxiv.org/abs/1308.0850"
    decay = "l2"
    memory = "2, or 3 if centered"
    hyperparameters = (
        learning_rate(
            1e-2,
            1e-5,
            1e-1,
            "ours: torch's 0.01, a decade up and three down",
            description="learning rate: about the size of each element's step; 0 means no update",
        ),
        decay_rate(
            "alpha",
            0.99,
            "the mean square",
            0.7,
            0.999,
            "ours: 1 - alpha in 1e-3-0.3, log, around Hinton's 0.9 and torch's 0.99",
        ),
        Hyperparameter(
            name="momentum",
            default=0.0,
            description="fraction of the accumulated step kept at each step; steps grow to lr / (1 - momentum)",
            low=0.0,
            high=1.0,
            high_open=True,
            search=Search(min=0.0, max=0.95, source="ours; Graves 2013, arXiv:1308.0850, uses 0.9"),
        ),
        non_negative(
            "eps",
            1e-8,
            "keeps the denominator above 0; added as eps_placement specifies",
            1e-10,
            1e-3,
            "Choi et al. 2019, arXiv:1910.05446: eps matters over many decades; the bounds are ours",
        ),
        choice(
            "eps_placement", "outside", "outside: √s + eps (torch); inside: √(s + eps) (TensorFlow, optax)", "inside"
        ),
        choice(
            "centered",
            "no",
            "yes: divide by the standard deviation of the gradient, not by its root mean square",
            "yes",
        ),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Mean square, accumulated step and mean gradient, for every role."""
        return ("square_avg", "momentum_buffer", "grad_avg")

    def own_buffers(self, role: Role) -> tuple[str, ...]:
        """Leave out the mean gradient if it is not needed."""
        return self.buffers(role) if self.structure["centered"] == "yes" else self.buffers(role)[:2]

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the hyperparameters and `rest` = 1 - alpha."""
        return {**hp, "rest": 1 - hp["alpha"]}

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        square_avg = moment = buffers["square_avg"]
        whole = penalised(grad, param, scalars["weight_decay"])
        scratch = average_squares(square_avg, whole, scalars["alpha"], scalars["rest"])
        if self.structure["centered"] == "yes":
            grad_avg = buffers["grad_avg"]
            average(grad_avg, whole, scalars["alpha"], scalars["rest"], scratch)
            squared = torch.mul(grad_avg, grad_avg, out=scratch)
            moment = torch.sub(square_avg, squared, out=scratch).clamp_(min=0.0)
        eps = per_trial(scalars["eps"], param)
        inside = self.structure["eps_placement"] == "inside"
        denominator = (
            torch.add(moment, eps, out=scratch).sqrt_() if inside else torch.sqrt(moment, out=scratch).add_(eps)
        )
        accumulate(buffers["momentum_buffer"], whole.div_(denominator), scalars["momentum"])
        param.sub_(torch.mul(buffers["momentum_buffer"], per_trial(scalars["lr"], param), out=scratch))
