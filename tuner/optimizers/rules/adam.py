"""Adam: steps with a size per element, from averages of the gradient and of its square.

Reference: Kingma and Ba 2015, "Adam: a method for stochastic optimization", https://arxiv.org/abs/1412.6980,
algorithm 1; conventions of torch.optim.Adam.

    g ← g + weight_decay · p
    m ← beta1 · m + (1 - beta1) · g,   m̂ = m / (1 - beta1^t)
    v ← beta2 · v + (1 - beta2) · g²,  v̂ = v / (1 - beta2^t)
    p ← p - lr · m̂ / d,  where d by eps_placement is
        outside:      sqrt(v̂) + eps                          (algorithm 1; torch, optax's eps)
        outside_hat:  sqrt(v̂) + eps / sqrt(1 - beta2^t)      (end of section 2: "epsilon hat"; TensorFlow)
        inside:       sqrt(v̂ + eps)                          (optax's eps_root)

State per parameter: exp_avg m and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: weight decay, which the paper does not have, is coupled (an L2 penalty: it enters both moments), as in
torch. AMSGrad and AdamW are separate rules.
Used with: lr about 1e-3. Inside the root, eps keeps a floor of sqrt(eps) under the denominator: 1e-5 there damps
gradients below 3e-3, where 1e-8 outside damps those below 1e-8.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tuner.optimizers.entries import choice
from tuner.optimizers.maths.adam_moments import average, average_squares, root
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.adam_table import BETA1, BETA2, EPS, LR
from tuner.optimizers.rules.shared.heavy_ball import WEIGHT_DECAY, penalised
from tuner.optimizers.torch_kernels import Kernel, adam


class Adam(ElementwiseRule):
    """Adam with coupled L2 weight decay."""

    name = "adam"
    summary = "Adam: steps scaled by averages of the gradient and of its square"
    formula = "p ← p - lr · m̂ / (√v̂ + eps), moments of g + weight_decay · p"
    reference = "Kingma and Ba 2015, https://arxiv.org/abs/1412.6980"
    decay = "l2"
    hyperparameters = (
        LR,
        BETA1,
        BETA2,
        replace(EPS, description="keeps the denominator above 0; added as eps_placement specifies"),
        choice(
            "eps_placement",
            "outside",
            "outside: √v̂ + eps; outside_hat: √v̂ + eps / √(1 - beta2^t); inside: √(v̂ + eps)",
            "outside_hat",
            "inside",
        ),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, for every role."""
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the coefficients; the second moment or its root is divided by `correction`."""
        bias1, bias2 = 1 - power(torch.stack([hp["beta1"], hp["beta2"]]), step)
        step_size, correction = hp["lr"] / bias1, bias2.sqrt()
        if self.structure["eps_placement"] == "outside_hat":
            step_size, correction = step_size * correction, torch.ones_like(correction)
        elif self.structure["eps_placement"] == "inside":
            correction = bias2
        return {
            "beta1": hp["beta1"],
            "rest1": 1 - hp["beta1"],
            "beta2": hp["beta2"],
            "rest2": 1 - hp["beta2"],
            "step_size": step_size,
            "correction": correction,
            "eps": hp["eps"],
            "weight_decay": hp["weight_decay"],
        }

    def kernel(self) -> Kernel | None:
        """Torch's fused Adam, which has eps outside the root."""
        return adam(decoupled=False) if self.structure["eps_placement"] == "outside" else None

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        exp_avg, exp_avg_sq = buffers["exp_avg"], buffers["exp_avg_sq"]
        whole = penalised(grad, param, scalars["weight_decay"])
        scratch = average(exp_avg, whole, scalars["beta1"], scalars["rest1"])
        average_squares(exp_avg_sq, whole, scalars["beta2"], scalars["rest2"], scratch)
        step = torch.div(exp_avg, self._denominator(exp_avg_sq, scalars, scratch), out=scratch)
        param.sub_(step.mul_(per_trial(scalars["step_size"], param)))

    def _denominator(self, exp_avg_sq: Tensor, scalars: Tensors, scratch: Tensor) -> Tensor:
        if self.structure["eps_placement"] == "inside":
            corrected = torch.div(exp_avg_sq, per_trial(scalars["correction"], exp_avg_sq), out=scratch)
            return corrected.add_(per_trial(scalars["eps"], exp_avg_sq)).sqrt_()
        return root(exp_avg_sq, scalars["correction"], scalars["eps"], scratch)
