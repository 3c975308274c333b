"""Momentum: step along an accumulated gradient (the heavy ball).

Reference: Polyak 1964, "Some methods of speeding up the convergence of iteration methods", eq. (9),
https://doi.org/10.1016/0041-5553(64)90137-5; conventions of torch.optim.SGD with dampening 0.

    g ← g + weight_decay · p
    b ← momentum · b + g
    p ← p - lr · b

State per parameter: momentum_buffer b, of the parameter's shape, zeros at the start (so the first step gives b = g).
Departures: Polyak writes the step with the last displacement; for a constant lr the iterates are the same.
Used with: lr about (1 - momentum) times plain SGD's, because b grows to g / (1 - momentum). This is no moving average:
an average with lr equals the heavy ball with lr · (1 - momentum).
"""

from torch import Tensor

from tuner.optimizers.heavy_ball import LR, MOMENTUM, WEIGHT_DECAY, accumulate, descend, penalised
from tuner.optimizers.rule import ElementwiseRule, Role, Tensors


class Momentum(ElementwiseRule):
    """Heavy-ball momentum with coupled L2 weight decay."""

    name = "momentum"
    summary = "SGD with heavy-ball momentum, dampening 0"
    formula = "b ← momentum · b + g + weight_decay · p;  p ← p - lr · b"
    reference = "Polyak 1964, https://doi.org/10.1016/0041-5553(64)90137-5"
    decay = "l2"
    hyperparameters = (LR, MOMENTUM, WEIGHT_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One accumulated gradient, whatever the role."""
        return ("momentum_buffer",)

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        buffer = buffers["momentum_buffer"]
        accumulate(buffer, penalised(grad, param, scalars["weight_decay"]), scalars["momentum"])
        descend(param, buffer, scalars["lr"])
