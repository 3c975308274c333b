"""The exception behind an error, in one line: what is shown to users, and what tells whether two errors are the same.

A mistake in a workload raises the same exception at every attempt; a broken machine hardly does.
"""

import re

MOST = 500
"""Characters of a cause."""

_FRAME = re.compile(r'^ +File ".*", line \d+')
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def cause_of(error: str) -> str:
    """Return the line `Type: message` of a traceback, without addresses of objects; else the first line of the text."""
    lines = [line.rstrip() for line in error.strip().splitlines()] or [""]
    last = max((place for place, line in enumerate(lines) if _FRAME.match(line)), default=None)
    if last is not None:
        lines = [line for line in lines[last + 1 :] if line and not line.startswith(" ")] or lines[-1:]
    return _ADDRESS.sub("0x...", lines[0])[:MOST]
