"""Programs, which determine the floating-point result of an attempt: their fingerprint, and how two of them differ.

Equal programs give equal bits. A fingerprint covers every key and value of a program, so that two attempts can be
compared at a glance; the order of the keys does not matter.
"""

import hashlib
import json
from collections.abc import Mapping

from tuner.study.hyperparameter import Scalar

Program = Mapping[str, Scalar | None]
"""E.g. `{"device": "cpu", "threads": 1, "width": 32, "path": "eager", ...}`: see `Stack.program`."""

LENGTH = 12
"""Hex digits of a fingerprint: 48 bits, so that two of a thousand programs collide once in 10^8 databases."""


def fingerprint(program: Program) -> str:
    """Return 12 hex digits that identify a program."""
    text = json.dumps(dict(program), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def in_words(program: Program) -> str:
    """Describe a program in a few words, e.g. `compiled, width 64, 1 thread`; empty if nothing is known of it."""
    threads = program.get("threads")
    parts = [
        str(program["path"]) if "path" in program else "",
        f"width {program['width']}" if "width" in program else "",
        f"{threads} thread{'' if threads == 1 else 's'}" if threads is not None else "",
        str(program["precision"]) if "precision" in program else "",
    ]
    return ", ".join(part for part in parts if part)


def difference(wanted: Program, offered: Program) -> str:
    """Describe how two programs differ, among the keys that both have; empty if they do not.

    E.g. `width 32 (offered: 8), threads 1 (offered: 2)`.
    """
    keys = [key for key in wanted if key in offered and wanted[key] != offered[key]]
    return ", ".join(f"{key} {wanted[key]} (offered: {offered[key]})" for key in keys)
