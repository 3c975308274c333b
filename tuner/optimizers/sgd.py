"""SGD: step against the gradient.

Reference: Robbins and Monro 1951, "A stochastic approximation method", Ann. Math. Statist. 22(3), eq. (8),
https://doi.org/10.1214/aoms/1177729586; conventions of torch.optim.SGD with momentum 0.

    g ← g + weight_decay · p
    p ← p - lr · g

State: none.
Departures: none; weight decay is coupled (an L2 penalty), as in torch.
Used with: lr ten or more times AdamW's; a quadratic of curvature L needs lr < 2 / L.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.heavy_ball import LR, WEIGHT_DECAY, descend, penalised
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors


class SGD(Rule):
    """Stochastic gradient descent with coupled L2 weight decay."""

    name = "sgd"
    summary = "Plain stochastic gradient descent, with coupled L2 weight decay"
    formula = "p ← p - lr · (g + weight_decay · p)"
    reference = "Robbins and Monro 1951, https://doi.org/10.1214/aoms/1177729586"
    hyperparameters = (LR, WEIGHT_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """No state for any role."""
        return ()

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        state.step.add_(1)
        for name, param in params.items():
            descend(param, penalised(grads[name], param, hp["weight_decay"]), hp["lr"])
