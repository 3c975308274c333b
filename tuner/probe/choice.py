"""The results of probes: which processes, stack width and path train a workload fastest on this machine.

A choice is valid for one key: workload and its parameters, micro-batch, type, versions, device and its cores; the
threads are part of each measurement. Choices are kept in a JSON file in the user's cache directory. Entries that cannot
be read, or have another format, count as absent. Needs no torch, since a worker's agent reads it too.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tuner.study.hyperparameter import Scalar

DEFAULT_WIDTH = 32
"""Slots of a stack on a device without measurements."""
NEAR = 0.95
"""Fewer slots are preferred if they reach this share of the best rate: their trials end sooner."""


@dataclass(frozen=True)
class Cell:
    """One measurement. `path` is the one that actually ran; `tick_s` is the seconds per tick of each process.

    `bytes` is the predicted peak of one process's stack; for the narrowest widths, the measured one.
    """

    path: str
    width: int
    tick_s: float
    processes: int = 1
    threads: int = 1
    bytes: int | None = None

    @property
    def slots(self) -> int:
        """Trials in flight in all processes."""
        return self.processes * self.width

    @property
    def rate(self) -> float:
        """Trial-ticks per second over all processes."""
        return self.slots / self.tick_s


@dataclass(frozen=True)
class Choice:
    """All measurements of one key."""

    cells: tuple[Cell, ...]

    @property
    def best(self) -> Cell:
        """The measurement with the fewest slots among those that are nearly as fast as the fastest."""
        most = max(cell.rate for cell in self.cells)
        return min((c for c in self.cells if c.rate >= NEAR * most), key=lambda c: (c.slots, c.processes, c.tick_s))

    def with_threads(self, threads: int) -> "Choice | None":
        """Return the measurements with this number of threads per process."""
        cells = tuple(cell for cell in self.cells if cell.threads == threads)
        return Choice(cells) if cells else None

    def path_at(self, width: int) -> str:
        """Return the fastest path for stacks of this width, judged by the widest measured stacks that are not wider."""
        fitting = [cell.width for cell in self.cells if cell.width <= width] or [min(c.width for c in self.cells)]
        return max((cell for cell in self.cells if cell.width == max(fitting)), key=lambda cell: cell.rate).path


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """Name this machine's CPU as a place for which choices are valid."""
    return f"cpu of {cores()} cores"


def key(workload: str, params: Mapping[str, Scalar], micro_batch: int, place: str) -> str:
    """Name the setup for which a choice is valid; `place` is `cpu()` or a GPU's name."""
    parts = {"workload": workload, "params": dict(sorted(params.items())), "micro_batch": micro_batch}
    return json.dumps(parts | {"place": place, "torch": version("torch"), "dtype": "float32"}, sort_keys=True)


def cache_file() -> Path:
    """Return where choices are kept: `tuner/probe.json` in XDG_CACHE_HOME, or else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tuner" / "probe.json"


def stored(name: str) -> Choice | None:
    """Return the stored choice for a key, or None."""
    return _choice(_read().get(name))


def latest(place: str) -> Choice | None:
    """Return the latest choice measured in a place, for any workload, with the current torch version; or None."""
    found: dict[float, Choice] = {}
    for name, entry in _read().items():
        choice = _choice(entry)
        if choice is not None and _holds_for(name, place):
            found[float(entry["at"])] = choice
    return found[max(found)] if found else None


def store(name: str, choice: Choice) -> Path:
    """Store a choice; return the file. A process that writes at the same time may win, but never corrupts it."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _read() | {name: {"at": time.time(), "cells": [asdict(cell) for cell in choice.cells]}}
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(draft, path)
    return path


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _choice(entry: Any) -> Choice | None:
    try:
        cells = tuple(_cell(**cell) for cell in entry["cells"])
        float(entry["at"])
    except (KeyError, TypeError, ValueError):
        return None
    return Choice(cells) if cells else None


def _cell(path: str, width: int, tick_s: float, processes: int, threads: int, bytes: int | None) -> Cell:
    numbers = int(processes), int(threads), None if bytes is None else int(bytes)
    cell = Cell(str(path), int(width), float(tick_s), *numbers)
    if cell.width < 1 or cell.processes < 1 or not cell.tick_s > 0:
        raise ValueError(f"not a measurement: {cell}")
    return cell


def _holds_for(name: str, place: str) -> bool:
    try:
        parts = json.loads(name)
        return bool(parts["place"] == place and parts["torch"] == version("torch"))
    except (KeyError, TypeError, ValueError):
        return False
