"""SGD: step against the gradient.

Reference: Robbins and Monro 1951, "A stochastic approximation method", Ann. Math. Statist. 22(3), eq. (8),
https://doi.org/10.1214/aoms/1177729586; conventions of torch.optim.SGD with momentum 0.

    g ← g + weight_decay · p
    p ← p - lr · g

State: none.
Departures: none; weight decay is coupled (an L2 penalty), as in torch.
Used with: lr ten or more times AdamW's; a quadratic of curvature L needs lr < 2 / L.
"""

from torch import Tensor

from tuner.optimizers.entries import learning_rate
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors
from tuner.optimizers.rules.shared.heavy_ball import WEIGHT_DECAY, descend, penalised
from tuner.optimizers.torch_kernels import Kernel, sgd


class SGD(ElementwiseRule):
    """Stochastic gradient descent with coupled L2 weight decay."""

    name = "sgd"
    summary = "Plain stochastic gradient descent, with coupled L2 weight decay"
    formula = "p ← p - lr · (g + weight_decay · p)"
    reference = "Robbins and Monro 1951, https://doi.org/10.1214/aoms/1177729586"
    decay = "l2"
    hyperparameters = (
        learning_rate(
            0.1,
            1e-3,
            3.0,
            (
                "Bengio 2012, arXiv:1206.5533: below 1 for standardised inputs; raised to 3 by us, because the "
                "best on a 64-32-10 perceptron (digits) is 0.5 at batch 16 and 1.3 at 256"
            ),
            description="learning rate: the step is lr times the gradient; 0 means no update",
        ),
        WEIGHT_DECAY,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """No state for any role."""
        return ()

    def kernel(self) -> Kernel | None:
        """Torch's fused SGD."""
        return sgd()

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        descend(param, penalised(grad, param, scalars["weight_decay"]), scalars["lr"])
