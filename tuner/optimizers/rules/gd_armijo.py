"""Gradient descent with Armijo's backtracking.

Reference: Armijo 1966, "Minimization of functions having Lipschitz continuous first partial derivatives", Pacific J.
Math. 16(1), https://doi.org/10.2140/pjm.1966.16.1; Nocedal and Wright 2006, algorithm 3.1.

    t ← lr · r, lr · r · shrink, ... until f(p - t g) <= f(p) - c1 · t · |g|²
    p ← p - t g

`start` says where a search begins: `lr`: r = 1; `keep`: r = the last accepted t / lr; `increase`: that divided by
shrink, so that steps may grow too. After a search that failed, the next one goes on where it ended, whatever `start`
says, until steps no longer move any parameter; then it begins at lr again.

State per trial: factor, what r starts from: the last accepted t / lr; 0 stands for 1.
Departures: after `max_evaluations` tries the best point seen is taken, the old one if none was better.
Used with: full batches, lr generous: the search only shrinks it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import learning_rate
from tuner.optimizers.maths.line_search import C1, SHRINK, Line, backtrack, max_evaluations
from tuner.optimizers.maths.rows import Objective
from tuner.optimizers.rule import Shapes, State
from tuner.optimizers.rules.shared.descent import SearchRule
from tuner.study.hyperparameter import Hyperparameter

_MOST = 1e10
"""The largest factor: on an unbounded slope, steps would grow until they overflow."""


class GradientDescentArmijo(SearchRule):
    """Gradient descent with backtracking line search."""

    name = "gd_armijo"
    summary = "Gradient descent with Armijo's backtracking line search, for full batches"
    formula = "p ← p - t g,  t = lr · shrinkⁿ, smallest n with f(p - t g) ≤ f(p) - c1 t |g|²"
    reference = "Armijo 1966, https://doi.org/10.2140/pjm.1966.16.1"
    memory = "a number per trial"
    hyperparameters = (
        learning_rate(
            1.0,
            1e-2,
            10.0,
            "includes 1 (Armijo 1966, scipy); bounds are ours",
            description="first step tried, as a multiple of the gradient; 0 means no update",
        ),
        C1,
        SHRINK,
        Hyperparameter(
            name="start",
            default="increase",
            description="first step of a search: lr; keep: the last accepted; increase: the last accepted / shrink",
            choices=("lr", "keep", "increase"),
        ),
        max_evaluations(25),
    )

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the last accepted step, as a multiple of lr."""
        return {"factor": ()}

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        line = Line(objective, rows, -gradient, gradient)
        increase = self.structure["start"] == "increase"
        factor = state.trial["factor"].double()
        from_factor = factor / hp["shrink"] if increase else factor
        first = hp["lr"] * torch.where(factor > 0, from_factor.clamp(max=_MOST), 1.0)
        rounds = int(self.structure["max_evaluations"])
        found, met, ahead = backtrack(line, first, hp["c1"], hp["shrink"], rounds)
        accepted = torch.zeros_like(factor) if self.structure["start"] == "lr" else found.step / hp["lr"]
        moves = (line.rows(ahead) != rows).any(1)
        missed = torch.where(moves, (ahead * hp["shrink"] if increase else ahead) / hp["lr"], 0.0)
        searched = line.downhill & (first > 0)
        state.trial["factor"].copy_(torch.where(searched, torch.where(met, accepted, missed), factor))
        return line.rows(found.step)
