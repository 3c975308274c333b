"""Newton's method with truncated conjugate gradients: line search Newton-CG.

Reference: Dembo and Steihaug 1983, https://doi.org/10.1007/BF02592055; Nocedal and Wright 2006, Numerical
Optimization, 2nd ed., algorithm 7.1.

    d ← CG on H d = -g until |H d + g| <= min(forcing, √|g|) · |g|, until negative curvature, or cg_iterations products
    p ← p + t d,  t by backtracking or the strong Wolfe search, starting at lr

H times a vector comes from the second derivative of the loss; H itself is never formed.

State: none.
Departures: `forcing` is 0.01 where algorithm 7.1 has 0.5 (22 steps against 71 on Rosenbrock's valley in two
dimensions); a bound on the iterations; after `max_evaluations` tries the best point seen is used, or else the start.
Used with: full batches, lr 1: near the minimum the full Newton step is accepted.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import choice, limit
from tuner.optimizers.maths.conjugate_gradient import descent_direction
from tuner.optimizers.maths.line_search import C1, C2, SHRINK, Line, backtrack, max_evaluations
from tuner.optimizers.maths.rows import Objective, dot
from tuner.optimizers.maths.wolfe import strong_wolfe
from tuner.optimizers.rule import State
from tuner.optimizers.rules.shared.descent import QUASI_NEWTON_LR, SearchRule
from tuner.study.hyperparameter import Hyperparameter, Search


class NewtonCG(SearchRule):
    """Truncated Newton with line search."""

    name = "newton_cg"
    summary = "Newton's method by Hessian-vector products: truncated conjugate gradients, then a line search"
    formula = "p ← p + t d,  H d ≈ -g by CG"
    reference = "Dembo and Steihaug 1983, https://doi.org/10.1007/BF02592055"
    memory = "0"
    needs_curvature = True
    hyperparameters = (
        QUASI_NEWTON_LR,
        Hyperparameter(
            name="forcing",
            default=0.01,
            description="largest fraction of the gradient that CG may leave unsolved",
            low=0.0,
            high=1.0,
            high_open=True,
            search=Search(min=1e-3, max=0.5, scaling="log", swept=False, source="includes 0.5 (algorithm 7.1)"),
        ),
        limit("cg_iterations", 50, 10_000, "most products with the Hessian per step"),
        choice(
            "line_search", "wolfe", "how the step length is chosen: strong Wolfe, or Armijo's backtracking", "armijo"
        ),
        C1,
        C2,
        SHRINK,
        max_evaluations(25),
    )

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        norm = dot(gradient, gradient).sqrt()
        tolerance = torch.minimum(hp["forcing"], norm.sqrt()) * norm

        def product(vectors: Tensor) -> Tensor:
            return objective.hessian_vector(rows, vectors)

        direction = descent_direction(product, gradient, tolerance, int(self.structure["cg_iterations"]))
        line, rounds = Line(objective, rows, direction, gradient), int(self.structure["max_evaluations"])
        if self.structure["line_search"] == "armijo":
            found = backtrack(line, hp["lr"], hp["c1"], hp["shrink"], rounds)[0]
        else:
            most = torch.full_like(norm, rounds - 1)
            found = strong_wolfe(line, hp["lr"], hp["c1"], hp["c2"], most)[0]
        return line.rows(found.step)
