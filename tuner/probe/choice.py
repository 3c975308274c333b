"""What probes found: how many processes, how wide a stack and which path train a workload fastest on this machine.

A choice holds for one key: workload and its parameters, micro-batch, type, versions, device and its cores; the threads
are part of each measurement. Choices are kept in a JSON file in the user's cache directory. What cannot be read, or was
written in another form, counts as absent. Needs no torch, since a worker's agent reads it too.
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
"""Slots of a stack on a device where nothing was measured."""
NEAR = 0.95
"""Fewer slots with this share of the best rate are preferred: their trials end sooner."""


@dataclass(frozen=True)
class Cell:
    """One measurement. `path` is the one that really ran; `tick_s` is the seconds of a tick of each process.

    `bytes` is the predicted peak of one process's stack, for the narrowest widths the measured one.
    """

    path: str
    width: int
    tick_s: float
    processes: int = 1
    threads: int = 1
    bytes: int | None = None

    @property
    def slots(self) -> int:
        """Trials under way in all processes."""
        return self.processes * self.width

    @property
    def rate(self) -> float:
        """Trial-ticks per second of all processes together."""
        return self.slots / self.tick_s


@dataclass(frozen=True)
class Choice:
    """All measurements of one key."""

    cells: tuple[Cell, ...]

    @property
    def best(self) -> Cell:
        """The one with the fewest slots of those that are nearly as fast as the fastest."""
        most = max(cell.rate for cell in self.cells)
        return min((c for c in self.cells if c.rate >= NEAR * most), key=lambda c: (c.slots, c.processes, c.tick_s))

    def with_threads(self, threads: int) -> "Choice | None":
        """Return what was measured with so many threads per process."""
        cells = tuple(cell for cell in self.cells if cell.threads == threads)
        return Choice(cells) if cells else None

    def path_at(self, width: int) -> str:
        """Return the fastest path for stacks of this width: that of the widest measured ones that are not wider."""
        fitting = [cell.width for cell in self.cells if cell.width <= width] or [min(c.width for c in self.cells)]
        return max((cell for cell in self.cells if cell.width == max(fitting)), key=lambda cell: cell.rate).path


def cores() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """Name this machine's processor as a place that choices hold for."""
    return f"cpu of {cores()} cores"


def key(workload: str, params: Mapping[str, Scalar], micro_batch: int, place: str) -> str:
    """Name what a choice holds for; `place` is `cpu()` or a GPU's name."""
    parts = {"workload": workload, "params": dict(sorted(params.items())), "micro_batch": micro_batch}
    return json.dumps(parts | {"place": place, "torch": version("torch"), "dtype": "float32"}, sort_keys=True)


def cache_file() -> Path:
    """Return where choices are kept: `tuner/probe.json` in XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tuner" / "probe.json"


def stored(name: str) -> Choice | None:
    """Return the choice that was kept for a key, or None."""
    return _choice(_read().get(name))


def latest(place: str) -> Choice | None:
    """Return the choice that was measured last in a place, of whatever workload, with the torch of now; or None."""
    found: dict[float, Choice] = {}
    for name, entry in _read().items():
        choice = _choice(entry)
        if choice is not None and _holds_for(name, place):
            found[float(entry["at"])] = choice
    return found[max(found)] if found else None


def store(name: str, choice: Choice) -> Path:
    """Keep a choice; return the file. Another process that writes at the same moment may win, never tear it."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _read() | {name: {"at": time.time(), "cells": [asdict(cell) for cell in choice.cells]}}
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(draft, path)
    return path


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text())
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
        raise ValueError(f"no measurement: {cell}")
    return cell


def _holds_for(name: str, place: str) -> bool:
    try:
        parts = json.loads(name)
        return bool(parts["place"] == place and parts["torch"] == version("torch"))
    except (KeyError, TypeError, ValueError):
        return False
