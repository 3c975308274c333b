"""AdamW: Adam with decoupled weight decay.

Reference: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", https://arxiv.org/abs/1711.05101,
algorithm 2; Adam: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1; conventions of torch.optim.AdamW.

    p ← p · (1 - lr · weight_decay)
    m ← beta1 · m + (1 - beta1) · g
    v ← beta2 · v + (1 - beta2) · g²
    p ← p - lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

State per parameter: exp_avg m and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: as torch, not as the paper, the decay is multiplied by lr and therefore follows the schedule; it comes
before the step. eps stands outside the root, after the bias correction of v. AMSGrad is another rule.
Used with: lr about 1e-3; every parameter decays, biases included.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.adam_moments import AdamScalars, adam_scalars, adamw_step
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors
from tuner.study.hyperparameter import Hyperparameter, Search

_ALGOPERF = "AlgoPerf, arXiv:2306.07179, AdamW search space"


class AdamW(ElementwiseRule):
    """Adam with decoupled weight decay."""

    name = "adamw"
    summary = "Adam with decoupled weight decay"
    formula = "p ← p · (1 - lr · weight_decay) - lr · m̂ / (√v̂ + eps)"
    reference = "Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"
    decay = "decoupled"
    hyperparameters = (
        Hyperparameter(
            name="lr",
            default=1e-3,
            description="learning rate: about the size of each element's step; 0 moves nothing",
            low=0.0,
            search=Search(
                min=1e-4,
                max=3e-2,
                scaling="log",
                source=f"{_ALGOPERF}: 1e-4-1e-2, log; raised to 3e-2 by us (best on a 64-32-10 perceptron: 4e-3-2e-2)",
            ),
        ),
        Hyperparameter(
            name="beta1",
            default=0.9,
            description="decay of the first moment",
            low=0.0,
            high=1.0,
            high_open=True,
            search=Search(min=0.5, max=0.98, scaling="reverse_log", source=f"{_ALGOPERF}: 1 - beta1 in 0.02-0.5, log"),
        ),
        Hyperparameter(
            name="beta2",
            default=0.999,
            description="decay of the second moment",
            low=0.0,
            high=1.0,
            high_open=True,
            search=Search(
                min=0.6,
                max=0.999,
                scaling="reverse_log",
                swept=False,
                source=f"{_ALGOPERF}: 1 - beta2 in 1e-3-0.4, log",
            ),
        ),
        Hyperparameter(
            name="eps",
            default=1e-8,
            description="added to the root of the second moment; a large one makes the step like momentum's",
            low=0.0,
            search=Search(
                min=1e-10,
                max=1e-3,
                scaling="log",
                swept=False,
                source="Choi et al. 2019, arXiv:1910.05446: eps matters over many decades; the ends are ours",
            ),
        ),
        Hyperparameter(
            name="weight_decay",
            default=1e-2,
            description="decoupled decay: each step shrinks the parameter by the factor 1 - lr · weight_decay",
            low=0.0,
            search=Search(min=5e-3, max=1.0, scaling="log", source=f"{_ALGOPERF}: 5e-3-1, log"),
        ),
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, whatever the role."""
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the fields of `AdamScalars`."""
        return vars(adam_scalars(step=step, **hp))

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        adamw_step(grad, param, buffers["exp_avg"], buffers["exp_avg_sq"], AdamScalars(**scalars))
