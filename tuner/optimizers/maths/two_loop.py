"""The memory of L-BFGS: pairs of steps and changes of the gradient in ring buffers, and the two-loop recursion.

Reference: Nocedal 1980, "Updating quasi-Newton matrices with limited storage", Math. Comput. 35,
https://doi.org/10.1090/S0025-5718-1980-0572855-7; Nocedal and Wright 2006, algorithm 7.4.

Invariant: trials have stored different numbers of pairs; missing ones are masked, never read.
"""

import torch
from torch import Tensor

from tuner.optimizers.maths.rows import column, dot

LEAST_CURVATURE = 1e-10
"""Pairs with a smaller y's are not stored (as in torch.optim.LBFGS): H would no longer be positive definite."""


def remember(trial: dict[str, Tensor], gradient: Tensor, allowed: Tensor) -> None:
    """Store the pair (previous_step, gradient - previous_gradient) of the `allowed` trials [T] in place, once.

    The step is used up: a search that is cut off and begun anew stores no second pair.

    `trial` holds steps and changes [T, n, P], inverse_products [T, n], pairs and scale [T], previous_step and
    previous_gradient [T, P].
    """
    step, change = trial["previous_step"], gradient - trial["previous_gradient"]
    inner = dot(change, step)
    stored = allowed & (inner > LEAST_CURVATURE) & inner.isfinite()
    rows, place = torch.arange(len(step), device=step.device), _place(trial["pairs"], trial["steps"])
    mask = column(stored, step)
    for name, value in (("steps", step), ("changes", change)):
        trial[name][rows, place] = torch.where(mask, value, trial[name][rows, place])
    inverse = (1 / inner).to(step.dtype)
    trial["inverse_products"][rows, place] = torch.where(stored, inverse, trial["inverse_products"][rows, place])
    scale = (inner / dot(change, change)).to(step.dtype)
    trial["scale"].copy_(torch.where(stored, scale, trial["scale"]))
    trial["pairs"].add_(stored.to(step.dtype))
    trial["previous_step"].copy_(torch.where(column(allowed, step), 0.0, step))


def descent(trial: dict[str, Tensor], gradient: Tensor, most: int) -> Tensor:
    """Return -H g [T, P] for gradients [T, P], by the two-loop recursion.

    At most `most` pairs are used: an upper bound on the number stored by any trial.
    """
    pairs, steps, changes = trial["pairs"], trial["steps"], trial["changes"]
    rows = torch.arange(len(gradient), device=gradient.device)
    result, weights = -gradient, []
    for back in range(most):
        place, has = _place(pairs - 1 - back, steps), pairs > back
        weight = dot(steps[rows, place], result) * trial["inverse_products"][rows, place].double()
        weights.append(torch.where(has, weight, 0.0))
        reduced = result - changes[rows, place] * column(weights[-1], result)
        result = torch.where(column(has, result), reduced, result)
    result = result * column(torch.where(pairs > 0, trial["scale"], 1.0), result)
    for back in reversed(range(most)):
        place, has = _place(pairs - 1 - back, steps), pairs > back
        weight = dot(changes[rows, place], result) * trial["inverse_products"][rows, place].double()
        raised = result + steps[rows, place] * column(weights[back] - weight, result)
        result = torch.where(column(has, result), raised, result)
    return result


def _place(number: Tensor, ring: Tensor) -> Tensor:
    """Return the position of pair `number` [T] in a ring [T, n, P]."""
    return number.long() % ring.shape[1]
