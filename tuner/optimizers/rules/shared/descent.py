"""What rules that search along a direction share: parameters as rows, no step into the unknown, their learning rate.

Invariants: `lr` 0 and failed searches leave a trial's parameters bit for bit. A gradient that is not finite makes them
NaN: there is no direction to search along, and a trial that stood still would pass for one that has arrived.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import learning_rate
from tuner.optimizers.maths.rows import Objective, sum_by_halving
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors
from tuner.study.hyperparameter import Hyperparameter, Search

QUASI_NEWTON_LR = learning_rate(
    1.0,
    0.1,
    2.0,
    "1 is the step of the quadratic model (torch's default); bounds are ours",
    description="first step tried, as a multiple of the direction (1 is the model's own step); 0 means no update",
)
RELAXATION_LR = Hyperparameter(
    name="lr",
    default=1.0,
    description="multiple of the minimising step: below 1 stops short of the minimum, above 1 overshoots; 0: no update",
    low=0.0,
    high=2.0,
    search=Search(
        min=0.3,
        max=1.8,
        scaling="log",
        source="Raydan and Svaiter 2002, https://doi.org/10.1023/A:1013708715892: factors in (0, 2) converge",
    ),
)

TOLERANCE = Hyperparameter(
    name="tolerance",
    default=1e-6,
    description="fraction of the slope along the line that may remain at its minimum",
    low=0.0,
    low_open=True,
    high=1.0,
    high_open=True,
    search=Search(min=1e-8, max=1e-2, scaling="log", swept=False, source="ours"),
)


class SearchRule(Rule):
    """A rule for full batches whose step ends where a search along a direction ends."""

    elementwise = False
    needs_loss = True

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """No state of the parameters' own shapes."""
        return ()

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64).

        Raises:
            InvalidInput: `evaluate` is missing, or lacks a required second derivative.
        """
        objective = Objective(self.name, evaluate, params, self.needs_curvature)
        gradient = objective.join(grads)
        moved = self.moved(objective, objective.join(params), gradient, state, hp)
        moved = torch.where(gradient.isfinite().all(1, keepdim=True), moved, torch.nan)
        state.advance()
        for name, rows in objective.split(moved).items():
            params[name].copy_(rows)

    @abstractmethod
    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the end of the step, [T, P], from `rows` with their `gradient` [T, P]; may write into `state`.

        `state.step` counts the updates before this one.
        """


def first_step(gradient: Tensor) -> Tensor:
    """Return min(1, 1 / |g|_1), [T]: a first step that moves no parameter by more than 1 at any scale of the loss."""
    return torch.clamp(1 / sum_by_halving(gradient.double().abs()), max=1.0)
