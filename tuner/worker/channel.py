"""JSON lines between a worker's agent and its device processes.

The device process uses private duplicates of its standard streams: output printed by user code goes to stderr and
cannot be mistaken for a message. Non-finite numbers are sent as NaN and Infinity, which both ends parse.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

Json = dict[str, Any]


def write_line(stream: IO[str], message: Json) -> None:
    """Write one message and flush."""
    stream.write(json.dumps(message, separators=(",", ":")) + "\n")
    stream.flush()


def read_lines(stream: IO[str]) -> Iterator[Json]:
    """Yield messages until the other end closes. A last line that was cut off is left out."""
    for line in stream:
        if not line.endswith("\n"):
            return
        message: Json = json.loads(line)
        yield message


def private_streams() -> tuple[IO[str], IO[str]]:
    """Take over this process's stdin and stdout; from now on `print` writes to stderr and `input` reads nothing."""
    sys.stdout.flush()
    source = os.fdopen(os.dup(0), "r", encoding="utf-8")
    target = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, target
