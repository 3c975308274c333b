"""Which trial won: the order of completed trials and of optimizers."""

import math
import statistics
from collections.abc import Sequence


def better(a: float, b: float, *, minimize: bool) -> bool:
    """Whether value a beats value b; NaN beats nothing."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(b) and not math.isnan(a)
    return a < b if minimize else a > b


def median(values: Sequence[float]) -> float | None:
    """Median of the values, None when there are none."""
    return statistics.median(values) if values else None


def value_of_curve(values: Sequence[float], *, at: str, minimize: bool) -> float | None:
    """Return the evaluation that counts for a trial: the last, or the best (finite) one.

    None when nothing finite is there.
    """
    finite = [v for v in values if math.isfinite(v)]
    if at == "best":
        return (min(finite) if minimize else max(finite)) if finite else None
    return values[-1] if values and math.isfinite(values[-1]) else None
