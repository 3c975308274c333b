"""The strong Wolfe search: bracket, then zoom by cubic interpolation, as a state machine over trials.

Reference: Nocedal and Wright 2006, Numerical Optimization, 2nd ed., algorithms 3.5 and 3.6 and eq. (3.59); bounds,
safeguards and stopping as in torch.optim.LBFGS's strong_wolfe (after minFunc, M. Schmidt,
https://www.cs.ubc.ca/~schmidtm/Software/minFunc.html), so that the two agree step by step.

    (1) f(t) <= f(0) + c1 t f'(0)        (2) |f'(t)| <= c2 |f'(0)|

Where the loss at the bracket's far end is infinite, no cubic says how far to go: the bracket shrinks tenfold at a time
(torch halves it, and 25 halvings do not reach a step that is 1e14 times shorter).

A trial is bracketing (the step grows, at most tenfold a round, until a minimum lies behind it), zooming (the bracket
shrinks) or done. Invariant: `low` is the lowest end of the bracket and never above the start, so the result never is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.optimizers.maths.line_search import Line, Point, choose
from tuner.optimizers.maths.rows import largest

NARROW = 1e-9
"""A bracket whose ends differ by less than this in every parameter is not searched further."""
_MARGIN = 0.1
"""Fraction of the bracket within which a point is too close to its ends."""


@dataclass
class _Search:
    """The state of the trials; all masks and numbers [T]."""

    previous: Point
    low: Point
    high: Point
    bracketing: Tensor
    zooming: Tensor
    met: Tensor
    low_is_first: Tensor
    """Whether `low` came before `high`; decides between ends of equal loss."""
    crept: Tensor
    """Whether the last point was too close to an end."""


def strong_wolfe(
    line: Line, first: Tensor, c1: Tensor, c2: Tensor, rounds: Tensor, narrow: float | Tensor = NARROW
) -> tuple[Point, Tensor, Tensor]:
    """Search each trial's line, starting at the step `first` [T].

    Args:
        line: the lines.
        first: first steps tried [T], float64; if 0, the start is the result.
        c1: required decrease, in (0, c2).
        c2: allowed fraction of the slope, in (0, 1).
        rounds: most evaluations after the first, integers [T].
        narrow: see `NARROW`; a number or [T].

    Returns:
        The points, a mask [T] of trials that meet both conditions, and the number of evaluations [T] of each.
    """
    searched = line.downhill & (first > 0)
    no = torch.zeros_like(searched)
    search = _Search(line.start, line.start, line.start, searched, no, no, ~no, no)
    reach = largest(line.direction)
    tried, count, made = line.at(torch.where(searched, first, 0.0)), 0, searched.double()
    while True:
        _zoom(search, line, tried, c1, c2)
        _bracket(search, line, tried, c1, c2, count, rounds)
        search.zooming = search.zooming & (count < rounds)
        search.zooming = search.zooming & ((search.high.step - search.low.step).abs() * reach >= narrow)
        active = search.bracketing | search.zooming
        if not bool(active.any()):
            return search.low, search.met, made
        step = torch.where(search.bracketing, _further(search.previous, tried), _inside(search))
        search.previous = choose(search.bracketing, tried, search.previous)
        tried = line.at(torch.where(active, step, tried.step))
        made = made + active
        count += 1


def exact_search(line: Line, first: Tensor, tolerance: Tensor, rounds: int) -> Point:
    """Return minimisers along each line: the remaining slope is at most `tolerance` [T] of the initial one.

    `rounds` is the most evaluations; a search ends when its bracket is below the parameters' rounding.
    """
    c1, rounding = torch.clamp(tolerance, max=1e-4), torch.finfo(line.origin.dtype).eps
    narrow = largest(line.origin) * rounding
    return strong_wolfe(line, first, c1, tolerance, torch.full_like(first, rounds - 1), narrow)[0]


def _bracket(search: _Search, line: Line, new: Point, c1: Tensor, c2: Tensor, count: int, rounds: Tensor) -> None:
    """Evaluate the newest points of the bracketing trials."""
    start, previous, bracketing = line.start, search.previous, search.bracketing
    out = bracketing & (count >= rounds)
    bracketing = bracketing & ~out
    above = new.loss > start.loss + c1 * new.step * start.slope
    if count > 1:
        above = above | (new.loss >= previous.loss)
    flat = ~above & (new.slope.abs() <= -c2 * start.slope)
    crossed = bracketing & (above | (~flat & (new.slope >= 0)))
    met = bracketing & flat
    before = choose(out, start, previous)
    swap = met | ((crossed | out) & (new.loss < before.loss))
    ended = crossed | out | met
    search.low = choose(ended, choose(swap, new, before), search.low)
    search.high = choose(ended, choose(swap, before, new), search.high)
    search.low_is_first = torch.where(ended, ~swap, search.low_is_first)
    search.met = search.met | met
    search.zooming = search.zooming | crossed
    search.bracketing = bracketing & ~crossed & ~met


def _zoom(search: _Search, line: Line, new: Point, c1: Tensor, c2: Tensor) -> None:
    """Insert the newest points of the zooming trials into their brackets."""
    start, low, high, zooming = line.start, search.low, search.high, search.zooming
    worse = (new.loss > start.loss + c1 * new.step * start.slope) | (new.loss >= low.loss)
    swap = worse & ((new.loss < low.loss) | ((new.loss == low.loss) & ~search.low_is_first))
    met = zooming & ~worse & (new.slope.abs() <= -c2 * start.slope)
    turned = ~worse & (new.slope * (high.step - low.step) >= 0)
    search.low = choose(zooming & (~worse | swap), new, low)
    search.high = choose(zooming & (swap | turned), low, choose(zooming & worse, new, high))
    search.low_is_first = search.low_is_first ^ (zooming & swap)
    search.met = search.met | met
    search.zooming = zooming & ~met


def _further(previous: Point, new: Point) -> Tensor:
    """Return the next step of a bracketing trial: the cubic's minimum, from 1 % further to ten times as far."""
    least = new.step + 0.01 * (new.step - previous.step)
    return cubic_minimum(previous, new, least, new.step * 10)


def _inside(search: _Search) -> Tensor:
    """Return the next step of a zooming trial, away from the ends of its bracket; records trials stuck near an end."""
    left = torch.minimum(search.low.step, search.high.step)
    right = torch.maximum(search.low.step, search.high.step)
    first = choose(search.low_is_first, search.low, search.high)
    second = choose(search.low_is_first, search.high, search.low)
    near_low = search.low.step + _MARGIN * (search.high.step - search.low.step)
    step = torch.where(search.high.loss.isinf(), near_low, cubic_minimum(first, second, left, right))
    margin = _MARGIN * (right - left)
    near = torch.minimum(right - step, step - left) < margin
    push = near & (search.crept | (step >= right) | (step <= left))
    search.crept = torch.where(search.zooming, near & ~push, search.crept)
    pushed = torch.where((step - right).abs() < (step - left).abs(), right - margin, left + margin)
    return torch.where(push, pushed, step)


def cubic_minimum(one: Point, other: Point, left: Tensor, right: Tensor) -> Tensor:
    """Minimise the cubic through two points with their slopes, within [left, right]; the middle if there is none.

    Nocedal and Wright 2006, eq. (3.59). All [T], float64.
    """
    swapped = one.step > other.step
    mean = one.slope + other.slope - 3 * (one.loss - other.loss) / (one.step - other.step)
    square = mean * mean - one.slope * other.slope
    root = square.clamp(min=0).sqrt()
    width = other.step - one.step
    forward = other.step - width * ((other.slope + root - mean) / (other.slope - one.slope + 2 * root))
    backward = one.step + width * ((one.slope + root - mean) / (one.slope - other.slope + 2 * root))
    found = torch.where(swapped, backward, forward)
    found = torch.minimum(torch.maximum(found, left), right)
    return torch.where((square >= 0) & found.isfinite(), found, (left + right) / 2)
