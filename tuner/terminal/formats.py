"""Formatting of values for people: numbers, durations, intervals, configurations.

Three to four significant digits are shown; nobody chooses a learning rate by its ninth digit. JSON output (`--json`)
does not use these functions and keeps every digit.
"""

import math
from collections.abc import Mapping

from tuner.study.hyperparameter import Scalar
from tuner.wire.views import BatchRange

FIRST = ("lr", "batch_size", "schedule")
"""The hyperparameters that are shown first in a configuration."""


def number(value: Scalar | None, digits: int = 4) -> str:
    """Format a hyperparameter or a metric, e.g. `0.002134`, `1.2e-5`, `64`, `cosine`; a dash when there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == round(value) and abs(value) < 10**digits:
        return str(round(value))
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def count(value: float) -> str:
    """Format a count, with thousands separated: `20,000`."""
    return f"{round(value):,}" if math.isfinite(value) else str(value)


def many(amount: int, noun: str) -> str:
    """Format a count with its noun: `1 trial`, `2 trials`."""
    return f"{count(amount)} {noun}{'' if amount == 1 else 's'}"


def percent(share: float | None) -> str:
    """Format a share in [0, 1], rounded down, e.g. `94 %`; a dash when there is none."""
    return "-" if share is None else f"{math.floor(100 * share)} %"


def interval(low: float, high: float, digits: int = 4) -> str:
    """Format an interval, e.g. `0.081 to 0.093`, `at least 120`, `at most 120`."""
    if math.isinf(high) and math.isinf(low):
        return "unknown"
    if math.isinf(high):
        return f"at least {number(low, digits)}"
    if math.isinf(low):
        return f"at most {number(high, digits)}"
    return f"{number(low, digits)} to {number(high, digits)}"


def batch_range(sizes: BatchRange | None) -> str:
    """Format a range of batch sizes, e.g. `32 to 128`."""
    if sizes is None:
        return "-"
    return str(sizes.low) if sizes.low == sizes.high else f"{sizes.low} to {sizes.high}"


def duration(seconds: float) -> str:
    """Format a time span in seconds, e.g. `8 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def ordered(params: Mapping[str, Scalar]) -> list[tuple[str, Scalar]]:
    """Order a configuration for reading: learning rate, batch size and schedule first; the optimizer is left out."""
    first = [(name, params[name]) for name in FIRST if name in params]
    return first + [(name, value) for name, value in params.items() if name not in FIRST and name != "optimizer"]


def configuration(params: Mapping[str, Scalar], swept: list[str] | None = None) -> str:
    """Format a configuration in one line, e.g. `lr=0.0021 batch_size=64 schedule=cosine`.

    With `swept`, only the hyperparameters that the study varied.
    """
    shown = [(name, value) for name, value in ordered(params) if swept is None or name in swept]
    return " ".join(f"{name}={number(value, 3)}" for name, value in shown)
