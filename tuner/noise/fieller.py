"""Fieller's confidence set for a ratio of two means, which may have no upper end.

The set of r with (s - r q)^2 <= t^2 (v_ss - 2 r v_sq + r^2 v_qq) contains the true ratio with the requested confidence
for any size of q (Fieller 1954, "Some problems in interval estimation"). If q is not significantly positive, the data
cannot distinguish the ratio from infinity; then there is only a lower bound, and the result states that. Nothing is
clamped to make a ratio finite.
"""

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """Ends of a confidence set within [0, inf]. `bounded` is False if it extends to infinity."""

    low: float
    high: float
    bounded: bool


def fieller(s: float, q: float, v_ss: float, v_sq: float, v_qq: float, t: float) -> Interval:
    """Return the confidence set of E s / E q, where both expectations are known to be >= 0.

    `v_...` is the covariance of the two means, `t` >= 0 the two-sided quantile. Without an upper end, `low` is a
    one-sided bound at confidence (1 + c) / 2 for a two-sided c, so that it is continuous with the bounded case.
    """
    a = q * q - t * t * v_qq
    if a > 0 and q > 0:
        h = s * q - t * t * v_sq
        root = math.sqrt(max(h * h - a * (s * s - t * t * v_ss), 0.0))
        return Interval(max((h - root) / a, 0.0), max((h + root) / a, 0.0), True)
    # E q cannot be negative, so a negative mean carries no more information than a mean of zero.
    return Interval(_lower_bound(s, max(q, 0.0), v_ss, v_sq, v_qq, t), math.inf, False)


def _lower_bound(s: float, q: float, v_ss: float, v_sq: float, v_qq: float, t: float) -> float:
    """Smallest r >= 0 in the set, where a = q^2 - t^2 v_qq <= 0: the only positive root of a r^2 - 2 h r + c."""
    a = q * q - t * t * v_qq
    h = s * q - t * t * v_sq
    c = s * s - t * t * v_ss
    if s <= 0 or c <= 0:
        return 0.0
    root = math.sqrt(max(h * h - a * c, 0.0))
    # c / (h + root) is the same root as (h - root) / a, without dividing by an a that may be zero.
    return c / (h + root) if h + root > 0 else 0.0
