"""A file for `tuner serve --workloads` that registers nothing: it counts the time that stacks spend in ticks.

Each process that loads it adds up seconds and ticks of all its stacks, in a file of 16 bytes in $SWEEP_CLOCK that is
named after the process's main module and id. A tick includes its evaluations, as a user's own loop does.
"""

import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

from tuner.engine.stack import Stack

_main = getattr(sys.modules["__main__"].__spec__, "name", "unknown")
_path = Path(os.environ["SWEEP_CLOCK"]) / f"{_main}-{os.getpid()}"
_path.write_bytes(bytes(16))
with _path.open("r+b") as _file:
    _memory = mmap.mmap(_file.fileno(), 16)
_seconds, _ticks = 0.0, 0
_tick = Stack.tick


def _timed(stack: Stack) -> Any:
    global _seconds, _ticks
    begin = time.perf_counter()
    events = _tick(stack)
    _seconds += time.perf_counter() - begin
    _ticks += 1
    struct.pack_into("=dq", _memory, 0, _seconds, _ticks)
    return events


Stack.tick = _timed  # type: ignore[method-assign]
