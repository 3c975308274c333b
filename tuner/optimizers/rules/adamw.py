"""AdamW: Adam with decoupled weight decay.

Reference: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", https://arxiv.org/abs/1711.05101,
algorithm 2; Adam: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1; conventions of torch.optim.AdamW.

    p ← p · (1 - lr · weight_decay)
    m ← beta1 · m + (1 - beta1) · g
    v ← beta2 · v + (1 - beta2) · g²
    p ← p - lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

State per parameter: exp_avg m and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: as torch, not as the paper, the decay is multiplied by lr and therefore follows the schedule; it comes
before the step. eps is outside the root, after the bias correction of v. AMSGrad is a separate rule.
Used with: lr about 1e-3; every parameter decays, biases included.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.maths.adam_moments import AdamScalars, adam_scalars, adamw_step
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors
from tuner.optimizers.rules.shared.adam_table import BETA1, BETA2, DECOUPLED_DECAY, EPS, LR
from tuner.optimizers.torch_kernels import Kernel, adam


class AdamW(ElementwiseRule):
    """Adam with decoupled weight decay."""

    name = "adamw"
    summary = "Adam with decoupled weight decay"
    formula = "p ← p · (1 - lr · weight_decay) - lr · m̂ / (√v̂ + eps)"
    reference = "Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"
    decay = "decoupled"
    hyperparameters = (LR, BETA1, BETA2, EPS, DECOUPLED_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, for every role."""
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the fields of `AdamScalars`."""
        return vars(adam_scalars(step=step, **hp))

    def kernel(self) -> Kernel | None:
        """Torch's fused AdamW."""
        return adam(decoupled=True)

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        adamw_step(grad, param, buffers["exp_avg"], buffers["exp_avg_sq"], AdamScalars(**scalars))
