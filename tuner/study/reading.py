"""How single values of a study document are read.

- The type that a document gives stays: text is never taken for a number, nor the other way round.
- One exception: readers of YAML 1.1 take numbers such as `1e-3` or `2.5e4` (no dot, or no sign in the exponent) for
  text. Where a number is wanted, such text is that number.
- What is refused is refused in one line, with the value seen and what is allowed.
"""

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


AnyScalar = Annotated[Scalar, PlainValidator(_scalar)]
"""Number, text, true or false, as the document has it."""
Number = Annotated[float, BeforeValidator(_number)]
"""A finite number."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number; 1000.0 is one."""
