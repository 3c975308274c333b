"""L-BFGS: a quasi-Newton method that stores its last steps instead of a matrix.

Reference: Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization", Math. Program. 45,
https://doi.org/10.1007/BF01589116; Nocedal and Wright 2006, algorithms 7.4 and 7.5; conventions of torch.optim.LBFGS.

    s = p - p_before,  y = g - g_before; stored where y's > 1e-10, the oldest of `history` pairs dropped
    γ = y's / y'y of the newest pair, 1 without one
    d ← -H g by the two-loop recursion over the pairs, from H0 = γ I
    p ← p + t d,  t by the strong Wolfe search starting at lr, or fixed at lr

At the first iteration t starts at lr · min(1, 1 / |g|_1). One step is `iterations` such iterations on the same
examples (torch's max_iter, 1 here); it ends early, as torch's does, where |g|_∞ <= tolerance_grad, where g'd, the step
or the loss's change is within tolerance_change, or when the evaluations are used up (torch's max_eval).

State per trial: steps s and changes y [history, P] as ring buffers, inverse_products 1 / y's [history]; pairs (the
number stored), scale γ; previous_gradient and previous_step [P]; done (iterations). Zeros at the start.
Departures: a search that finds no better point drops all pairs and restarts with steepest descent; the default history
is 10 (Liu and Nocedal: 3 to 7; torch: 100) and the default step is searched for.
Used with: full batches, lr 1. `fixed` needs lr well below 1 except on quadratics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.optimizers.entries import choice, limit, non_negative
from tuner.optimizers.maths.line_search import C1, C2, Line
from tuner.optimizers.maths.rows import Objective, column, dot, largest
from tuner.optimizers.maths.two_loop import descent, remember
from tuner.optimizers.maths.wolfe import strong_wolfe
from tuner.optimizers.rule import Shapes, State
from tuner.optimizers.rules.shared.descent import QUASI_NEWTON_LR, SearchRule, first_step
from tuner.study.hyperparameter import Hyperparameter

MOST_PAIRS = 1000


def _tolerance(name: str, default: float, description: str) -> Hyperparameter:
    return non_negative(name, default, description, 1e-12, 1e-5, "includes torch's default; bounds are ours")


@dataclass
class _Place:
    """The state of the trials within a step."""

    rows: Tensor
    gradient: Tensor
    loss: Tensor
    live: Tensor
    """Trials that are still iterating, [T]."""
    left: Tensor
    """Evaluations left, [T]."""


class LBFGS(SearchRule):
    """Limited-memory BFGS."""

    name = "lbfgs"
    summary = "Limited-memory quasi-Newton method, strong Wolfe search or fixed step, for full batches"
    formula = "p ← p - t H g,  H by the two-loop recursion over the last pairs s, y"
    reference = "Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116"
    memory = "2 history + 2"
    hyperparameters = (
        QUASI_NEWTON_LR,
        choice("line_search", "wolfe", "how the step length is chosen: strong Wolfe, or fixed at lr", "fixed"),
        limit("history", 10, MOST_PAIRS, "pairs stored"),
        limit("iterations", 1, 1000, "iterations per step, on the same examples"),
        limit("max_evaluations", 25, 10_000, "evaluations after which a step ends, including the one at its start"),
        C1,
        C2,
        _tolerance("tolerance_grad", 1e-7, "a step ends if no element of the gradient is larger"),
        _tolerance("tolerance_change", 1e-9, "a step ends if loss and parameters change by less"),
    )

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the history and the data for the next pair."""
        size, history = sum(shape.numel() for shape in shapes.values()), int(self.structure["history"])
        pairs = {"steps": (history, size), "changes": (history, size), "inverse_products": (history,)}
        return {**pairs, "pairs": (), "scale": (), "previous_gradient": (size,), "previous_step": (size,), "done": ()}

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        iterations, fixed = int(self.structure["iterations"]), self.structure["line_search"] == "fixed"
        loss = torch.zeros_like(hp["lr"]) if fixed and iterations == 1 else objective(rows)[0]  # not used in that case
        live = largest(gradient) > hp["tolerance_grad"]
        left = torch.full_like(hp["lr"], int(self.structure["max_evaluations"]))
        place = _Place(rows, gradient, loss, live, left)
        for number in range(iterations):
            self._iterate(objective, place, state, hp, last=number == iterations - 1)
            if number < iterations - 1 and not bool(place.live.any()):
                break
        return place.rows

    def _iterate(self, objective: Objective, place: _Place, state: State, hp: Mapping[str, Tensor], last: bool) -> None:
        """Do one iteration of the active trials; `place` and `state` are modified."""
        trial, live, rows, gradient = state.trial, place.live, place.rows, place.gradient
        first = trial["done"] == 0
        remember(trial, gradient, live & ~first)
        stored = max(state.counts) * int(self.structure["iterations"]) + int(self.structure["iterations"])
        direction = descent(trial, gradient, min(stored, int(self.structure["history"])))
        slope = dot(gradient, direction)
        live = live & (slope <= -hp["tolerance_change"])
        start = hp["lr"] * torch.where(first, first_step(gradient), 1.0)
        line = Line(objective, rows, direction, gradient, place.loss)
        step = self._search(line, place, torch.where(live, start, 0.0), hp, last)
        moved = direction * column(step, rows)
        self._note(trial, gradient, torch.where(column(live, moved), moved, 0.0), place.live, live & (step == 0), hp)
        place.rows = line.rows(step)
        if last:
            return
        small = largest(moved) <= hp["tolerance_change"]
        place.live = live & (place.left > 1) & ~small & self._changes(place, line.start.loss, hp)

    def _search(self, line: Line, place: _Place, start: Tensor, hp: Mapping[str, Tensor], last: bool) -> Tensor:
        """Return the steps [T]; loss, gradient and evaluations left of `place` become those at their ends."""
        if self.structure["line_search"] == "wolfe":
            found, _, made = strong_wolfe(line, start, hp["c1"], hp["c2"], place.left - 1)
        elif last:
            return start
        else:
            found, made = line.at(start), (start > 0).double()
        place.loss, place.gradient, place.left = found.loss, found.gradient, place.left - made
        return found.step

    def _changes(self, place: _Place, before: Tensor, hp: Mapping[str, Tensor]) -> Tensor:
        """Return which trials have a nonzero gradient and a loss that changed."""
        steep = largest(place.gradient) > hp["tolerance_grad"]
        return steep & ((place.loss - before).abs() >= hp["tolerance_change"])

    def _note(
        self,
        trial: dict[str, Tensor],
        gradient: Tensor,
        step: Tensor,
        live: Tensor,
        failed: Tensor,
        hp: Mapping[str, Tensor],
    ) -> None:
        """Store the data for the next pair; drop everything where a search failed."""
        mask = column(live, gradient)
        trial["previous_gradient"].copy_(torch.where(mask, gradient, trial["previous_gradient"]))
        trial["previous_step"].copy_(torch.where(mask, step, trial["previous_step"]))
        trial["done"].add_(live.to(gradient.dtype))
        if self.structure["line_search"] == "wolfe":
            failed = failed & (hp["lr"] > 0)
            for name in ("pairs", "done"):
                trial[name].copy_(torch.where(failed, 0.0, trial[name]))
