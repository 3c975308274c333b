"""Quantiles of Student's t for integer degrees of freedom, using only the standard library.

The distribution function has a finite trigonometric series for integer degrees of freedom (Abramowitz & Stegun,
Handbook of Mathematical Functions, 26.7.3 and 26.7.4), so no incomplete beta function is needed.
"""

import math
from functools import cache
from statistics import NormalDist

NEARLY_NORMAL = 2_000
"""From this number on the first-order Cornish-Fisher term has a relative error below 1e-6."""


@cache
def t_quantile(probability: float, dof: int) -> float:
    """Return t with P(T <= t) = probability, for probability in [0.5, 1) and dof >= 1."""
    if not 0.5 <= probability < 1 or dof < 1:
        raise ValueError(f"probability {probability!r} must be in [0.5, 1) and dof {dof!r} must be at least 1")
    normal = NormalDist().inv_cdf(probability)
    if dof >= NEARLY_NORMAL:
        return normal + (normal**3 + normal) / (4 * dof)
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if (1 + _inside(middle, dof)) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2)


def two_sided(confidence: float, dof: int) -> float:
    """Return t with P(|T| <= t) = confidence."""
    return t_quantile((1 + confidence) / 2, dof)


def _inside(theta: float, dof: int) -> float:
    """Return P(|T| <= sqrt(dof) tan(theta)) by the finite series in cos(theta)."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = dof % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    # Odd: cos + (2/3) cos^3 + (2*4)/(3*5) cos^5 + ...; even: 1 + (1/2) cos^2 + (1*3)/(2*4) cos^4 + ...
    for k in range(1 if odd else 0, dof - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
