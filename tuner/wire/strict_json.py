"""JSON and text as they may enter: in a request's body, in a study's file, in what a program says to its worker.

What passes can be stored in either database, read back, and sent to any client:

- text holds no NUL (PostgreSQL stores none) and no lone surrogate (UTF-8 has none);
- a key occurs once in its object;
- an integer fits in 64 bits, with its sign;
- JSON is what RFC 8259 calls so: UTF-8, without `NaN` and `Infinity` (non-finite numbers travel by name, as text).

Almost every body is what our own programs write, and large ones are many. Those are parsed by pydantic's parser, which
is several times as fast but keeps quiet about repeated keys: they are found by counting. Where that leaves a doubt,
Python's parser decides, and says what is wrong.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NoReturn

from pydantic_core import from_json

from tuner.errors import Fault, InvalidInput

INTEGERS = range(-(2**63), 2**63)
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
REPLACEMENT = "\ufffd"
MOST_DIGITS = 20


def parse_json(data: bytes, source: str = "body") -> Any:
    """Parse JSON; `source` names it in messages that concern no field.

    Raises:
        InvalidInput: it is not JSON, or holds what may not enter, with every such field.
    """
    found = _quickly(data)
    if found is not None:
        return found
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput([Fault(source, f"is not UTF-8 text (byte {error.start})")]) from error
    value = load_json(text, source)
    # An unescaped NUL or surrogate has been refused already: only escapes can hide one.
    if "\\u" in text and (faults := list(unstorable(value))):
        raise InvalidInput(faults)
    return value


PLAINER = bytes.maketrans(b"123456789\t\n\r", b"000000000   ")


def _quickly(data: bytes) -> Any | None:
    """Parse JSON in which nothing can be amiss; None where there is doubt, or nothing in it."""
    plainer = data.translate(PLAINER)
    if b"\\" in data or b" :" in plainer:
        return None  # a hidden character or quote, a key that is not counted
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError:
        return None
    if type(value) not in NESTED:
        return None
    # Digits of a fraction may be as many.
    integers_fit = b"0" * len(str(INTEGERS[-1])) not in plainer
    return value if _keys(value, integers_fit) == data.count(b'":') else None


def _keys(value: Any, integers_fit: bool) -> int:
    """Count the keys of all objects, level by level; -1 if an integer does not fit in 64 bits."""
    count, level = 0, [value]
    while level:
        objects = [item for item in level if type(item) is dict]
        count += sum(map(len, objects))
        lists = [item for item in level if type(item) is list]
        items = list(chain.from_iterable(chain(lists, map(dict.values, objects))))
        if not integers_fit and not all([item in INTEGERS for item in items if type(item) is int]):
            return -1
        level = [item for item in items if type(item) in NESTED]
    return count


NESTED = frozenset({dict, list})


def load_json(text: str, source: str) -> Any:
    """Parse JSON as `parse_json` does, but leave `unstorable` to the caller."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise InvalidInput([Fault(f"{source}:{error.lineno}", error.msg)]) from error
    except RecursionError as error:
        raise InvalidInput([Fault(source, "is nested too deeply")]) from error
    except _Refused as error:
        raise InvalidInput([Fault(source, str(error))]) from error


def unstorable(value: Any, path: str = "") -> Iterator[Fault]:
    """Name every text and integer inside plain values that may not enter."""
    if isinstance(value, str):
        if found := UNSTORABLE.search(value):
            yield Fault(path, f"contains {_name(found[0])}, which cannot be stored")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = storable(str(key))
            if inner != str(key):
                yield Fault(path, f"has the key {str(key)!r}, which cannot be stored")
            yield from unstorable(item, f"{path}.{inner}" if path else inner)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from unstorable(item, f"{path}[{index}]")
    elif isinstance(value, int) and value not in INTEGERS:
        yield Fault(path, f"is {_shown(str(value))}, an integer that does not fit in 64 bits")


def storable(text: str) -> str:
    """Return text with every character that cannot be stored replaced, as UTF-8 decoders do."""
    return UNSTORABLE.sub(REPLACEMENT, text)


class _Refused(Exception):
    """Valid JSON that may not enter."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {repeated!r} is repeated")
    return values


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS or (value := int(digits)) not in INTEGERS:
        raise _Refused(f"the integer {_shown(digits)} does not fit in 64 bits")
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON; a metric that is not finite is written by name, as text: {name!r}")


def _shown(digits: str) -> str:
    return digits if len(digits) <= 40 else f"{digits[:20]}... ({len(digits)} characters)"


def _name(character: str) -> str:
    return "a NUL character" if character == "\x00" else f"half of a character (U+{ord(character):04X})"
