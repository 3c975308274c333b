"""Gradient descent to the minimum along the gradient: exact line search.

Reference: Cauchy 1847, C. R. Acad. Sci. 25; Nocedal and Wright 2006, Numerical Optimization, 2nd ed., eq. (3.26).

    t ← g'g / (g'H g)                where the Hessian H is at hand and g'H g > 0
    t ← the step at which |f'(t)| <= tolerance · |f'(0)|, by bracketing and cubic interpolation, from the t above
    p ← p - lr · t · g               lr = 1 is the minimum; where another lr raises the loss, lr = 1

On a quadratic the closed form is the minimum: the search then only confirms it. Without a Hessian the search starts
from the last step found, initially from min(1, 1 / |g|_1).

State per trial: step_size, the last t, 0 at the start.
Departures: none.
Used with: full batches; lr below 1 is often better than 1 (Raydan and Svaiter 2002), which zigzags.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.maths.line_search import Line, max_evaluations, relaxed
from tuner.optimizers.maths.rows import Objective, dot
from tuner.optimizers.maths.wolfe import exact_search
from tuner.optimizers.rule import Shapes, State
from tuner.optimizers.rules.shared.descent import RELAXATION_LR, TOLERANCE, SearchRule, first_step


class GradientDescentExact(SearchRule):
    """Gradient descent with exact line search."""

    name = "gd_exact"
    summary = "Gradient descent to the minimum along the gradient (exact line search), for full batches"
    formula = "p ← p - lr · argmin_t f(p - t g) · g,  t = g'g / g'H g on quadratics"
    reference = "Cauchy 1847; Nocedal and Wright 2006, Numerical Optimization, eq. (3.26)"
    memory = "a number per trial"
    hyperparameters = (RELAXATION_LR, TOLERANCE, max_evaluations(25))

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the last step found."""
        return {"step_size": ()}

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        line = Line(objective, rows, -gradient, gradient)
        last = state.trial["step_size"].double()
        first = torch.where(last > 0, last, first_step(gradient))
        if objective.curvature is not None:
            bend = dot(gradient, objective.hessian_vector(rows, gradient))
            closed = -line.start.slope / bend
            first = torch.where((bend > 0) & (closed > 0) & closed.isfinite(), closed, first)
        found = exact_search(line, first, hp["tolerance"], int(self.structure["max_evaluations"]))
        state.trial["step_size"].copy_(found.step)
        return line.rows(relaxed(line, found, hp["lr"]).step)
