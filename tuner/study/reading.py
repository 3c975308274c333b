"""How single values of a study document are read.

- The type that a document gives stays: text is never taken for a number, nor the other way round.
- One exception: readers of YAML 1.1 take numbers such as `1e-3` or `2.5e4` (no dot, or no sign in the exponent) for
  text. Where a number is wanted, such text is that number.
- What is refused is refused in one line, with the value seen and what is allowed.
"""

import re
import sys
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from tuner.study.hyperparameter import Scalar, as_number

_LONGEST = 60


def shown(value: object) -> str:
    """Return a value as messages quote it: in one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _scalar(value: Any) -> Any:
    if isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
        return value
    raise ValueError(f"{shown(value)} given; allowed is a finite number, text, true or false")


def _number(value: Any) -> float:
    found = as_number(value)
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= sys.float_info.max:
        raise ValueError(f"{shown(value)} given; input should be a finite number{_unquoted(value)}")
    return float(found)


def _whole(value: Any) -> int:
    found = as_number(value)
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found or found % 1:
        raise ValueError(f"{shown(value)} given; input should be a whole number{_unquoted(value)}")
    return int(found)


def _unquoted(value: Any) -> str:
    return ", not text" if isinstance(value, str) else ""


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds."""


def _duration(value: Any) -> float:
    if not isinstance(value, str) or as_number(value) != value:
        return _number(value)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", value)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([smhd])|\s", "", value):
        raise ValueError(f"{shown(value)} given; allowed are a number of seconds, or such as 30m, 1h30m, 2d")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def in_words(seconds: float) -> str:
    """Write a duration as documents do, e.g. `1h30m`."""
    parts = []
    for unit in ("d", "h", "m"):
        whole, seconds = divmod(seconds, UNITS[unit])
        parts += [f"{whole:g}{unit}"] if whole else []
    return "".join([*parts, f"{seconds:g}s"] if seconds or not parts else parts)


AnyScalar = Annotated[Scalar, PlainValidator(_scalar)]
"""Number, text, true or false, as the document has it."""
Number = Annotated[float, BeforeValidator(_number)]
"""A finite number."""
Duration = Annotated[float, BeforeValidator(_duration)]
"""A time, in seconds: a number of them, or such as `30m`, `1h30m`, `2d`."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number; 1000.0 is one."""
