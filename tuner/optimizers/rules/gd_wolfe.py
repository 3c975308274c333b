"""Gradient descent with a search for the strong Wolfe conditions.

Reference: Wolfe 1969, "Convergence conditions for ascent methods", SIAM Review 11(2),
https://doi.org/10.1137/1011036; the search as in wolfe.py.

    t: f(p - t g) <= f(p) - c1 · t · |g|²  and  |g(p - t g)'g| <= c2 · |g|²;  first tried: lr
    p ← p - t g

State: none.
Departures: after `max_evaluations` tries the best point seen is used, or the start if none was better.
Used with: full batches; unlike backtracking, steps also grow, up to tenfold per evaluation.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import learning_rate
from tuner.optimizers.maths.line_search import C1, C2, Line, max_evaluations
from tuner.optimizers.maths.rows import Objective
from tuner.optimizers.maths.wolfe import strong_wolfe
from tuner.optimizers.rule import State
from tuner.optimizers.rules.shared.descent import SearchRule


class GradientDescentWolfe(SearchRule):
    """Gradient descent with strong Wolfe line search."""

    name = "gd_wolfe"
    summary = "Gradient descent with strong Wolfe line search, for full batches"
    formula = "p ← p - t g,  t with f(t) ≤ f(0) + c1 t f'(0) and |f'(t)| ≤ c2 |f'(0)|"
    reference = "Wolfe 1969, https://doi.org/10.1137/1011036"
    memory = "0"
    hyperparameters = (
        learning_rate(
            1.0,
            1e-2,
            10.0,
            "includes 1 (torch's LBFGS, scipy); bounds are ours",
            description="first step tried, as a multiple of the gradient; 0 means no update",
        ),
        C1,
        C2,
        max_evaluations(25),
    )

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        line = Line(objective, rows, -gradient, gradient)
        rounds = torch.full_like(hp["lr"], int(self.structure["max_evaluations"]) - 1)
        return line.rows(strong_wolfe(line, hp["lr"], hp["c1"], hp["c2"], rounds)[0].step)
