"""Coordinate descent: each step minimises over one block of coordinates and leaves the others unchanged.

Reference: Wright 2015, "Coordinate descent algorithms", Math. Program. 151, https://doi.org/10.1007/s10107-015-0892-3;
the Gauss-Southwell rule as in Nutini et al. 2015, https://arxiv.org/abs/1506.00552.

    block b: `cyclic`: the next one; `random`: drawn uniformly, with replacement; `gauss_southwell`: that of the
             largest gradient (Euclidean norm over the block)
    d ← CG on H_bb d = -g_b           (-g_b where the Hessian is not at hand)
    p_b ← p_b + lr · t · d,  t minimises along d; where lr ≠ 1 raises the loss, lr = 1

A coordinate's minimum is exact on quadratics, so cyclic order with blocks of 1 is Gauss-Seidel, with lr as its
relaxation. Coordinates are numbered across all parameters in their order; the last block may be shorter.

State: none. A random block is a hash of (seed, steps done): the same trial draws the same blocks anywhere.
Departures: one step is one block, not a sweep over all: it costs a gradient, like a step of any rule.
Used with: few parameters, full batches; convex problems whose coordinates interact little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import choice
from tuner.optimizers.maths.conjugate_gradient import descent_direction
from tuner.optimizers.maths.line_search import Line, max_evaluations, relaxed
from tuner.optimizers.maths.rows import Objective, dot, sum_by_halving
from tuner.optimizers.maths.wolfe import exact_search
from tuner.optimizers.rule import State
from tuner.optimizers.rules.shared.descent import RELAXATION_LR, TOLERANCE, SearchRule
from tuner.study.hyperparameter import Hyperparameter, Search

_MOST_ITERATIONS = 100
"""Most CG iterations in a block; one per coordinate is enough in exact arithmetic."""


class CoordinateDescent(SearchRule):
    """Exact minimisation over one block of coordinates per step."""

    name = "coordinate_descent"
    summary = "Coordinate descent: each step minimises over one block of coordinates, for full batches"
    formula = "p_b ← p_b + lr · argmin_d f(p + d on block b);  b cyclic, random or of the largest gradient"
    reference = "Wright 2015, https://doi.org/10.1007/s10107-015-0892-3"
    memory = "0"
    hyperparameters = (
        RELAXATION_LR,
        choice("order", "cyclic", "which block comes next", "random", "gauss_southwell"),
        Hyperparameter(
            name="block_size",
            default=1,
            description="coordinates per block",
            low=1,
            high=1_000_000,
            integer=True,
            structural=True,
        ),
        Hyperparameter(
            name="seed",
            default=0,
            description="seed of the random order",
            low=0,
            high=2**31 - 1,
            integer=True,
            search=Search(min=0, max=1000, swept=False, source="ours"),
        ),
        TOLERANCE,
        max_evaluations(25),
    )

    def moved(
        self, objective: Objective, rows: Tensor, gradient: Tensor, state: State, hp: Mapping[str, Tensor]
    ) -> Tensor:
        """See `SearchRule.moved`."""
        chosen = self._block(gradient, state.step, hp["seed"])
        mask = torch.arange(rows.shape[1], device=rows.device) // self._size(gradient) == chosen[:, None]
        own = torch.where(mask, gradient, 0.0)
        line = Line(objective, rows, self._direction(objective, rows, own, mask), own)
        found = exact_search(line, torch.ones_like(state.step), hp["tolerance"], int(self.structure["max_evaluations"]))
        return line.rows(relaxed(line, found, hp["lr"]).step)

    def _direction(self, objective: Objective, rows: Tensor, own: Tensor, mask: Tensor) -> Tensor:
        """Return the step to the block's minimum on a quadratic [T, P], or steepest descent without a Hessian."""
        if objective.curvature is None:
            return -own

        def product(vectors: Tensor) -> Tensor:
            return torch.where(mask, objective.hessian_vector(rows, vectors), 0.0)

        iterations = min(self._size(own), _MOST_ITERATIONS)
        return descent_direction(product, own, dot(own, own).sqrt() * 1e-12, iterations)

    def _size(self, rows: Tensor) -> int:
        return min(int(self.structure["block_size"]), rows.shape[1])

    def _block(self, gradient: Tensor, done: Tensor, seed: Tensor) -> Tensor:
        """Return the number of each trial's next block, [T]."""
        size = self._size(gradient)
        count = -(-gradient.shape[1] // size)
        if self.structure["order"] == "cyclic":
            return done.long() % count
        if self.structure["order"] == "random":
            return scrambled(scrambled(seed.long()) ^ done.long()) % count
        padded = torch.nn.functional.pad(gradient, (0, count * size - gradient.shape[1])).double()
        norms = sum_by_halving((padded * padded).view(-1, count, size))
        numbers = torch.arange(count, device=gradient.device).expand_as(norms)
        first = torch.where(norms == norms.amax(1, keepdim=True), numbers, count).amin(1)
        return first % count  # argmax may return any of several equal maxima


def scrambled(numbers: Tensor) -> Tensor:
    """Hash whole numbers in [0, 2^32), int64, one to one: `lowbias32` of Wellons 2018.

    https://nullprogram.com/blog/2018/07/31/
    """
    low = 0xFFFFFFFF
    x = numbers ^ (numbers >> 16)
    x = (x * 0x7FEB352D) & low
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & low
    return x ^ (x >> 16)
