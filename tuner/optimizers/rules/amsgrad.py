"""AMSGrad: Adam whose denominator never shrinks.

Reference: Reddi, Kale and Kumar 2018, "On the convergence of Adam and beyond",
https://openreview.net/forum?id=ryQu7f-RZ, algorithm 2; conventions of torch.optim.Adam(amsgrad=True).

    g ← g + weight_decay · p
    m ← beta1 · m + (1 - beta1) · g
    v ← beta2 · v + (1 - beta2) · g²
    w ← max(w, v)
    p ← p - lr / (1 - beta1^t) · m / (sqrt(w) / sqrt(1 - beta2^t) + eps)

State per parameter: exp_avg m, exp_avg_sq v and max_exp_avg_sq w, of the parameter's shape, zeros at the start.
Departures: as in torch, both moments are bias-corrected, the second after the maximum is taken (optax corrects before
it); the paper corrects neither and has no eps.
Used with: Adam's learning rates, or somewhat larger ones. weight_decay_mode "decoupled" is torch's AdamW(amsgrad=True).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.maths.adam_moments import adam_scalars, average, average_squares, root
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.adam_table import BETA1, BETA2, EPS, LR
from tuner.optimizers.rules.shared.heavy_ball import WEIGHT_DECAY, penalised
from tuner.optimizers.torch_kernels import Kernel, adam


class AMSGrad(ElementwiseRule):
    """AMSGrad with coupled L2 weight decay."""

    name = "amsgrad"
    summary = "Adam with the largest second moment so far in the denominator"
    formula = "w ← max(w, v);  p ← p - lr · m̂ / (√ŵ + eps)"
    reference = "Reddi, Kale and Kumar 2018, https://openreview.net/forum?id=ryQu7f-RZ"
    decay = "l2"
    hyperparameters = (LR, BETA1, BETA2, EPS, WEIGHT_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments and the largest second moment so far, for every role."""
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the fields of `AdamScalars` except that of decoupled decay, and weight_decay."""
        found = dict(vars(adam_scalars(step=step, **hp)))
        del found["shrink"]
        return {**found, "weight_decay": hp["weight_decay"]}

    def kernel(self) -> Kernel | None:
        """Torch's fused Adam with the maximum."""
        return adam(decoupled=False, amsgrad=True)

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        exp_avg, exp_avg_sq, largest = buffers["exp_avg"], buffers["exp_avg_sq"], buffers["max_exp_avg_sq"]
        whole = penalised(grad, param, scalars["weight_decay"])
        scratch = average(exp_avg, whole, scalars["beta1"], scalars["rest1"])
        average_squares(exp_avg_sq, whole, scalars["beta2"], scalars["rest2"], scratch)
        torch.maximum(largest, exp_avg_sq, out=largest)
        step = torch.div(exp_avg, root(largest, scalars["correction2"], scalars["eps"], scratch), out=scratch)
        param.sub_(step.mul_(per_trial(scalars["step_size"], param)))
