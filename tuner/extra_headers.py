"""Headers that a proxy between clients and server wants: from TUNER_HEADERS, one `Name: value` a line.

A proxy that logs people in locks programs out; most let them in with a header of their own. `Authorization` may be one:
then our token travels in a header `Tuner-Token`.
"""

import os
import re
from collections.abc import Mapping

from tuner.errors import Fault, InvalidInput

OURS = frozenset({"host", "content-type", "content-length", "tuner-token", "last-event-id"})


def extra_headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the headers of TUNER_HEADERS. Raises `InvalidInput`, which shows no value: it may be a secret."""
    found: dict[str, str] = {}
    for number, line in enumerate(environment.get("TUNER_HEADERS", "").splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
            raise InvalidInput([Fault("TUNER_HEADERS", f"line {number} is no header; expected Name: value")])
        if name.lower() in OURS:
            raise InvalidInput([Fault("TUNER_HEADERS", f"{name} is set by Tuner itself")])
        if not value or not value.isascii() or not value.isprintable():
            raise InvalidInput([Fault("TUNER_HEADERS", f"the value of {name} is not one line of printable ASCII")])
        found[name] = value
    return found
