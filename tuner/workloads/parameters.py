"""Validation of workload parameters from a study document; messages show the value."""

import math
from typing import Any

from tuner.errors import Fault, InvalidInput
from tuner.workloads.value import SlotValue


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """Return `value`; raise `InvalidInput` unless it is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(
            [Fault(f"workload.params.{name}", f"is {value!r}; allowed is an integer in [{low}, {high}]")]
        )
    return value


def number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float; raise `InvalidInput` unless it is a finite number in [low, high].

    A number of each trial passes: the study's domain has been checked.
    """
    if isinstance(value, SlotValue):
        return value  # type: ignore[return-value]
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high:
        raise InvalidInput([Fault(f"workload.params.{name}", f"is {value!r}; allowed is a number in [{low}, {high}]")])
    return float(value)


def yes_or_no(name: str, value: Any) -> bool:
    """Return `value`; raise `InvalidInput` unless it is true or false."""
    if not isinstance(value, bool):
        raise InvalidInput([Fault(f"workload.params.{name}", f"is {value!r}; allowed are true and false")])
    return value
