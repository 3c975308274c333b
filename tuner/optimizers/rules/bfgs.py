"""BFGS: a quasi-Newton method with a dense inverse Hessian per trial.

Reference: Nocedal and Wright 2006, Numerical Optimization, 2nd ed., algorithm 6.1, eq. (6.17) and (6.20).

    d ← -H g;   p ← p + t d, t from the line search
    s = t d,  y = g(p + s) - g(p) on the same examples; where y's > 0:
    H ← y's / y'y · I, before the first update only
    H ← (I - ρ s y') H (I - ρ y s') + ρ s s',   ρ = 1 / y's

The first search starts at lr · min(1, 1 / |g|_1), later ones at lr.

State per trial: inverse_hessian H [P, P], I at the start; updates, the number of updates of H.
Departures: a search that finds no better point resets H to I, so that the next step starts from scratch; `fixed` takes
t = lr without a search. P is at most 4096: H has P² numbers per trial.
Used with: full batches, lr 1, few parameters; `lbfgs` for more.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.optimizers.entries import choice
from tuner.optimizers.maths.line_search import C1, C2, SHRINK, Line, Point, backtrack, max_evaluations
from tuner.optimizers.maths.rows import Objective, column, dot, matrix_vector
from tuner.optimizers.maths.wolfe import strong_wolfe
from tuner.optimizers.rule import Shapes, State
from tuner.optimizers.rules.shared.descent import QUASI_NEWTON_LR, SearchRule, first_step

MOST_PARAMETERS = 4096
"""H then takes 64 MiB per trial in float32."""


class BFGS(SearchRule):
    """Broyden-Fletcher-Goldfarb-Shanno with a dense inverse Hessian."""

    name = "bfgs"
    summary = f"Quasi-Newton with a dense inverse Hessian per trial, at most {MOST_PARAMETERS} parameters, full batches"
    formula = "p ← p - t H g,  H ← (I - ρ s y') H (I - ρ y s') + ρ s s'"
    reference = "Nocedal and Wright 2006, Numerical Optimization, algorithm 6.1"
    memory = "P per trial of P numbers"
    hyperparameters = (
        QUASI_NEWTON_LR,
        choice(
            "line_search",
            "wolfe",
            "how the step length is chosen: strong Wolfe, Armijo's backtracking, or fixed at lr",
            "armijo",
            "fixed",
        ),
        C1,
        C2,
        SHRINK,
        max_evaluations(25),
    )

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return H and the count of its updates.

        Raises:
            InvalidInput: the model has too many parameters.
        """
        size = sum(shape.numel() for shape in shapes.values())
        if size > MOST_PARAMETERS:
            message = f"they have {size} elements; {self.name} takes at most {MOST_PARAMETERS}, lbfgs any number"
            raise InvalidInput([Fault("params", message)])
        return {"inverse_hessian": (size, size), "updates": ()}

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        inverse, updates = state.trial["inverse_hessian"], state.trial["updates"]
        unit = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        inverse.copy_(torch.where((state.step == 0)[:, None, None], unit, inverse))
        line = Line(objective, rows, -matrix_vector(inverse, gradient), gradient)
        first = hp["lr"] * torch.where(updates.double() == 0, first_step(gradient), 1.0)
        found = self._search(line, first, hp)
        moved = line.rows(found.step)
        failed = (hp["lr"] > 0) & (found.step == 0)
        change, step = found.gradient - gradient, line.direction * column(found.step, rows)
        self._learn(inverse, updates, step, change, failed)
        return moved

    def _search(self, line: Line, first: Tensor, hp: Mapping[str, Tensor]) -> Point:
        rounds = int(self.structure["max_evaluations"])
        if self.structure["line_search"] == "wolfe":
            return strong_wolfe(line, first, hp["c1"], hp["c2"], torch.full_like(first, rounds - 1))[0]
        if self.structure["line_search"] == "armijo":
            return backtrack(line, first, hp["c1"], hp["shrink"], rounds)[0]
        return line.at(torch.where(line.downhill, first, 0.0))

    def _learn(self, inverse: Tensor, updates: Tensor, step: Tensor, change: Tensor, failed: Tensor) -> None:
        """Update H in place where y's > 0; reset it where the search failed."""
        inner = dot(change, step)
        curved = (inner > 0) & inner.isfinite() & (1 / inner).isfinite()
        scale = inner / dot(change, change)
        unit = torch.eye(inverse.shape[1], dtype=inverse.dtype, device=inverse.device)
        fresh = curved & (updates.double() == 0)
        inverse.copy_(torch.where(_matrix(fresh), unit * _matrix(scale.to(inverse.dtype)), inverse))
        inverse.copy_(torch.where(_matrix(curved), updated_inverse(inverse, step, change, inner), inverse))
        inverse.copy_(torch.where(_matrix(failed), unit, inverse))
        updates.copy_(torch.where(failed, 0.0, updates + curved))


def updated_inverse(inverse: Tensor, step: Tensor, change: Tensor, inner: Tensor) -> Tensor:
    """Return the BFGS update of H [T, P, P] for steps s and changes of gradient y [T, P] with inner products y's [T].

    Written as H + s u' + u s' with u = ½ (1 + ρ y'Hy) ρ s - ρ H y, so that the result is symmetric bit for bit.
    """
    rho, bent = 1 / inner, matrix_vector(inverse, change)
    half = (1 + rho * dot(change, bent)) * rho / 2
    other = step * column(half, step) - bent * column(rho, step)
    outer = step[:, :, None] * other[:, None, :]
    return inverse + (outer + outer.mT)


def _matrix(values: Tensor) -> Tensor:
    return values[:, None, None]
