"""Nesterov: momentum that looks one step ahead.

Reference: Nesterov 1983, "A method of solving a convex programming problem with convergence rate O(1/k²)", Soviet
Math. Dokl. 27(2); in the form of Sutskever et al. 2013, "On the importance of initialization and momentum in deep
learning", ICML, https://proceedings.mlr.press/v28/sutskever13.html, as torch.optim.SGD(nesterov=True) writes it.

    g ← g + weight_decay · p
    b ← momentum · b + g
    p ← p - lr · (g + momentum · b)

State per parameter: momentum_buffer b, of the parameter's shape, zeros at the start.
Departures: p is the looked-ahead point of the paper, so the gradient is taken at p itself. momentum 0 is legal (torch
refuses it) and is plain SGD.
Used with: the learning rates of heavy-ball momentum.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.heavy_ball import LR, MOMENTUM, WEIGHT_DECAY, accumulate, descend, penalised
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial


class Nesterov(Rule):
    """Nesterov's accelerated gradient with coupled L2 weight decay."""

    name = "nesterov"
    summary = "SGD with Nesterov momentum"
    formula = "g ← g + weight_decay · p;  b ← momentum · b + g;  p ← p - lr · (g + momentum · b)"
    reference = "Nesterov 1983; Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html"
    hyperparameters = (LR, MOMENTUM, WEIGHT_DECAY)

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One accumulated gradient, whatever the role."""
        return ("momentum_buffer",)

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
            buffer = state.buffers["momentum_buffer"][name]
            grad = penalised(grads[name], param, hp["weight_decay"])
            accumulate(buffer, grad, hp["momentum"])
            ahead = (buffer * per_trial(hp["momentum"], buffer)).add_(grad)
            descend(param, ahead, hp["lr"])
