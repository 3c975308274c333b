"""Truncated conjugate gradients: an approximate solution of H d = -g for every trial, using only products with H.

Reference: Steihaug 1983, https://doi.org/10.1137/0720042; Nocedal and Wright 2006, Numerical Optimization, 2nd ed.,
algorithm 7.1 (line search Newton-CG): stop at a small residual; at negative curvature take the current direction, or
steepest descent at the first iteration. The result is always a descent direction.

Invariant: as in line_search.py, a trial that is done no longer changes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tuner.optimizers.maths.rows import column, dot


def descent_direction(
    product: Callable[[Tensor], Tensor], gradient: Tensor, tolerance: Tensor, iterations: int
) -> Tensor:
    """Return d [T, P] with |H d + g| <= tolerance, or the result before negative curvature or at the last iteration.

    Args:
        product: vectors [T, P] -> H times them.
        gradient: g [T, P]; zero elements stay zero if `product` keeps them zero.
        tolerance: norm of the residual at which to stop, float64 [T].
        iterations: most products with H.
    """
    found, residual, direction = torch.zeros_like(gradient), gradient, -gradient
    square = dot(residual, residual)
    live = square.isfinite() & (square > 0)
    for number in range(iterations):
        bent = product(torch.where(column(live, direction), direction, 0.0))
        bend = dot(direction, bent)
        positive = live & (bend > 0) & bend.isfinite()
        if number == 0:
            found = torch.where(column(live & ~positive, found), direction, found)
        length = column(torch.where(positive, square / bend, 0.0), found)
        mask = column(positive, found)
        found = torch.where(mask, found + direction * length, found)
        residual = torch.where(mask, residual + bent * length, residual)
        fresh = dot(residual, residual)
        ratio = column(torch.where(positive, fresh / square, 0.0), found)
        direction = torch.where(mask, direction * ratio - residual, direction)
        square = torch.where(positive, fresh, square)
        live = positive & (square > tolerance * tolerance)
        if not bool(live.any()):
            break
    return found
