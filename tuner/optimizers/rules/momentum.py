"""Momentum: step along an accumulated gradient (the heavy ball).

Reference: Polyak 1964, "Some methods of speeding up the convergence of iteration methods", eq. (9),
https://doi.org/10.1016/0041-5553(64)90137-5; conventions of torch.optim.SGD.

    g ← g + weight_decay · p
    b ← momentum · b + (1 - dampening) · g, the first time b = g
    p ← p - lr · b

State per parameter: momentum_buffer b, of the parameter's shape, zeros at the start.
Departures: Polyak writes the step in terms of the last displacement; for a constant lr the iterates are the same.
Used with: lr about (1 - momentum) times plain SGD's, because b grows to g / (1 - momentum). This is not a moving
average: an average with lr equals the heavy ball with lr · (1 - momentum), or one with dampening = momentum and its
first b.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.rule import ElementwiseRule, Role, Tensors, per_trial
from tuner.optimizers.rules.shared.heavy_ball import LR, MOMENTUM, WEIGHT_DECAY, accumulate, descend, penalised
from tuner.optimizers.torch_kernels import Kernel, sgd
from tuner.study.hyperparameter import Hyperparameter

DAMPENING = Hyperparameter(
    name="dampening",
    default=0.0,
    description="fraction of each gradient except the first that is not accumulated",
    low=0.0,
    high=1.0,
    structural=True,  # its multiplication would cost every trial a pass over memory
)


class Momentum(ElementwiseRule):
    """Heavy-ball momentum with coupled L2 weight decay."""

    name = "momentum"
    summary = "SGD with heavy-ball momentum"
    formula = "b ← momentum · b + (1 - dampening) · (g + weight_decay · p);  p ← p - lr · b"
    reference = "Polyak 1964, https://doi.org/10.1016/0041-5553(64)90137-5"
    decay = "l2"
    hyperparameters = (LR, MOMENTUM, DAMPENING, WEIGHT_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One accumulated gradient, for every role."""
        return ("momentum_buffer",)

    def scalars(self, step: Tensor, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the hyperparameters and, with dampening, the `gain` of this step's gradient."""
        dampening = float(self.structure["dampening"])
        if dampening == 0:
            return dict(hp)
        return {**hp, "gain": torch.where(step == 1, 1.0, torch.full_like(step, 1 - dampening))}

    def kernel(self) -> Kernel | None:
        """Torch's fused SGD, without dampening."""
        return sgd() if float(self.structure["dampening"]) == 0 else None

    def step_elements(self, grad: Tensor, param: Tensor, buffers: Tensors, scalars: Tensors) -> None:
        """See `ElementwiseRule.step_elements`."""
        buffer = buffers["momentum_buffer"]
        whole = penalised(grad, param, scalars["weight_decay"])
        if "gain" in scalars:
            whole.mul_(per_trial(scalars["gain"], param))
        accumulate(buffer, whole, scalars["momentum"])
        descend(param, buffer, scalars["lr"])
