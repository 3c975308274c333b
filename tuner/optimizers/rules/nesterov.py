"""Nesterov: momentum that looks one step ahead.

Reference: Nesterov 1983, "A method of solving a convex programming problem with convergence rate O(1/k²)", Soviet
Math. Dokl. 27(2); in the form of Sutskever et al. 2013, "On the importance of initialization and momentum in deep
learning", ICML, https://proceedings.mlr.press/v28/sutskever13.html, as torch.optim.SGD(nesterov=True) writes it.

    g ← g + weight_decay · p
    b ← momentum · b + g
    p ← p - lr · (g + momentum · b)

State per parameter: momentum_buffer b, of the parameter's shape, zeros at the start.
Departures: p is the paper's lookahead point, so the gradient is taken at p itself. momentum 0 is legal (torch rejects
it) and is plain SGD.
Used with: the learning rates of heavy-ball momentum.
"""

from torch import Tensor

from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.heavy_ball import LR, MOMENTUM, WEIGHT_DECAY, accumulate, descend, penalised
from tuner.optimizers.torch_kernels import Kernel, sgd


class Nesterov(ElementwiseRule):
    """Nesterov's accelerated gradient with coupled L2 weight decay."""

    name = "nesterov"
    summary = "SGD with Nesterov momentum"
    formula = "g ← g + weight_decay · p;  b ← momentum · b + g;  p ← p - lr · (g + momentum · b)"
    reference = "Nesterov 1983; Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html"
    decay = "l2"
    hyperparameters = (LR, MOMENTUM, WEIGHT_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One accumulated gradient, for every role."""
        return ("momentum_buffer",)

    def kernel(self) -> Kernel | None:
        """Torch's fused SGD."""
        return sgd(nesterov=True)

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        buffer, momentum = buffers["momentum_buffer"], scalars["momentum"]
        whole = penalised(grad, param, scalars["weight_decay"])
        accumulate(buffer, whole, momentum)
        descend(param, (buffer * per_trial(momentum, buffer)).add_(whole), scalars["lr"])
