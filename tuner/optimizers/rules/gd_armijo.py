"""Gradient descent with Armijo's backtracking.

Reference: Armijo 1966, "Minimization of functions having Lipschitz continuous first partial derivatives", Pacific J.
Math. 16(1), https://doi.org/10.2140/pjm.1966.16.1; Nocedal and Wright 2006, algorithm 3.1.

    t ← lr · r, lr · r · shrink, ... until f(p - t g) <= f(p) - c1 · t · |g|²
    p ← p - t g

`start` determines where a search begins: `lr`: r = 1 always; `keep`: r = the last accepted t / lr; `increase`: that
divided by shrink, so that steps may grow too.

State per trial: factor, the last accepted t / lr, 0 (meaning 1) at the start and after a failed search.
Departures: after `max_evaluations` tries the best point seen is used, or the start if none was better.
Used with: full batches and a generous lr: the search only shrinks it.
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
        start, factor = self.structure["start"], state.trial["factor"].double()
        if start == "increase":
            factor = factor / hp["shrink"]
        factor = torch.where(factor > 0, factor.clamp(max=_MOST), 1.0)
        first = hp["lr"] if start == "lr" else hp["lr"] * factor
        rounds = int(self.structure["max_evaluations"])
        found, met = backtrack(line, first, hp["c1"], hp["shrink"], rounds)
        state.trial["factor"].copy_(torch.where(met, found.step / hp["lr"], 0.0))
        return line.rows(found.step)
