"""Step lengths along a direction, for all trials at once: one evaluation per round; finished trials are masked.

Invariants. A search never increases a trial's loss: if it fails it returns the best point it has seen, or the start
(step 0) if nothing was better. Losses and slopes that are not finite count as failure. A trial's result does not depend
on how many rounds its neighbours need: a finished trial no longer changes. The loop ends when all are done, which is
read from the device once per round, or after a fixed number of rounds.

`backtrack` is here; `wolfe.py` has the search for the strong Wolfe conditions, which `exact_search` uses too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tuner.optimizers.entries import limit
from tuner.optimizers.maths.rows import Objective, column, dot
from tuner.study.hyperparameter import Hyperparameter, Search

NOCEDAL_WRIGHT = "Nocedal and Wright 2006, Numerical Optimization, 2nd ed."

C1 = Hyperparameter(
    name="c1",
    default=1e-4,
    description="fraction of the first-order decrease that a step must achieve (Armijo); keep it below c2",
    low=0.0,
    low_open=True,
    high=0.5,
    high_open=True,
    search=Search(
        min=1e-5, max=0.3, scaling="log", swept=False, source=f"includes 1e-4 of {NOCEDAL_WRIGHT}, 3.1; bounds ours"
    ),
)
C2 = Hyperparameter(
    name="c2",
    default=0.9,
    description="fraction of the initial slope that may remain after a step (curvature condition); keep it above c1",
    low=0.0,
    low_open=True,
    high=1.0,
    high_open=True,
    search=Search(
        min=0.1, max=0.9, swept=False, source=f"{NOCEDAL_WRIGHT}, section 3.1: 0.9 for quasi-Newton, 0.1 for CG"
    ),
)
SHRINK = Hyperparameter(
    name="shrink",
    default=0.5,
    description="factor applied to the step after each failed try",
    low=0.0,
    low_open=True,
    high=1.0,
    high_open=True,
    search=Search(min=0.3, max=0.9, swept=False, source="includes 1/2 (Armijo 1966) and 0.8 (optax); bounds are ours"),
)


def max_evaluations(default: int) -> Hyperparameter:
    """Return the bound on a search's rounds, the same for all trials that are stepped together."""
    return limit("max_evaluations", default, 1000, "most evaluations per search; then the best point so far is used")


class Point(NamedTuple):
    """A point on each trial's line."""

    step: Tensor
    """[T], float64; 0 is the start."""
    loss: Tensor
    """[T], float64; infinite where loss or slope is not finite."""
    slope: Tensor
    """Derivative of the loss with respect to the step, [T], float64."""
    gradient: Tensor
    """[T, P]."""


def choose(mask: Tensor, yes: Point, no: Point) -> Point:
    """Return `yes` for the trials of a mask [T], `no` for the others."""
    row = mask[:, None]
    return Point(
        torch.where(mask, yes.step, no.step),
        torch.where(mask, yes.loss, no.loss),
        torch.where(mask, yes.slope, no.slope),
        torch.where(row, yes.gradient, no.gradient),
    )


class Line:
    """The loss of every trial along its own direction."""

    def __init__(
        self, objective: Objective, origin: Tensor, direction: Tensor, gradient: Tensor, loss: Tensor | None = None
    ) -> None:
        """`origin`, `direction` and `gradient` (at the origin) are [T, P]; its loss [T] is evaluated if not given."""
        self.origin = origin
        self.direction = direction
        self._objective = objective
        slope = dot(gradient, direction)
        loss = objective(origin)[0] if loss is None else loss
        self.start = Point(torch.zeros_like(slope), loss, slope, gradient)
        self.downhill = (slope < 0) & slope.isfinite() & loss.isfinite()
        """Trials [T] whose loss decreases initially; no others are searched."""

    def rows(self, step: Tensor) -> Tensor:
        """Return origin + step · direction [T, P]; a step of 0 gives exactly the bits of the origin."""
        moved = self.origin + self.direction * column(step, self.origin)
        return torch.where(column(step == 0, moved), self.origin, moved)

    def at(self, step: Tensor) -> Point:
        """Evaluate at steps [T]."""
        loss, gradient = self._objective(self.rows(step))
        slope = dot(gradient, self.direction)
        return Point(step, torch.where(slope.isfinite(), loss, torch.inf), slope, gradient)


def backtrack(line: Line, first: Tensor, c1: Tensor, shrink: Tensor, rounds: int) -> tuple[Point, Tensor, Tensor]:
    """Try `first`, first · shrink, ... [T] until the loss has fallen by c1 · step · |slope| (Armijo 1966).

    Returns:
        The point of each trial, a mask [T] of those that met the condition, and the steps [T] that the others would try
        next. They have the best point seen.
    """
    step, best, start = first, line.start, line.start
    met, searched = torch.zeros_like(line.downhill), line.downhill & (first > 0)
    for _ in range(rounds):
        tried = line.at(torch.where(searched, step, 0.0))
        enough = searched & (tried.loss <= start.loss + c1 * step * start.slope)
        better = searched & (tried.loss < best.loss)
        best = choose(enough | better, tried, best)
        met, searched = met | enough, searched & ~enough
        step = torch.where(searched, step * shrink, step)
        if not bool(searched.any()):
            break
    return best, met, step


def relaxed(line: Line, found: Point, factor: Tensor) -> Point:
    """Return the points at `factor` [T] times the found steps, or the found ones where that would increase the loss."""
    if bool((factor == 1).all()):
        return found
    tried = line.at(found.step * factor)
    allowed = (tried.loss <= line.start.loss) | (factor == 0)
    return choose((factor != 1) & allowed, tried, found)
