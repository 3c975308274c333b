"""What is known of a workload's programs on this machine: how fast each is, and which ones are compiled.

A choice is valid for one key: workload and its parameters, micro-batch, type, versions, device and its cores; the
threads are part of each measurement. Choices are kept in a JSON file in the user's cache directory, which several
processes change: a change reads and writes under one lock, so none is lost. Entries that cannot be read, or have
another format, count as absent. Needs no torch, since a worker's agent reads it too.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tuner.study.hyperparameter import Scalar

DEFAULT_WIDTH = 32
"""Most slots of a stack that nothing may be measured for, or nothing could be."""
WIDTHS = (1, 4, 16, 64)
"""Widths that are measured."""
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
class Compiled:
    """A compiled stack that lies in the compiler's cache, with the rules whose updates are compiled for it (see
    `program_key` of the optimizers' catalogue).
    """

    width: int
    threads: int
    rules: tuple[str, ...]
    build_s: float
    """Seconds that it takes to build the stack from the cache."""
    import_s: float = 0.0
    """Seconds that a process takes to import the compiler before the first one."""


@dataclass(frozen=True)
class Choice:
    """All that is known of one key. `model` tells the model that it was learned with from one with other shapes."""

    cells: tuple[Cell, ...]
    compiled: tuple[Compiled, ...] = ()
    model: str | None = None

    @property
    def best(self) -> Cell:
        """The measurement with the fewest slots among those that are nearly as fast as the fastest."""
        most = max(cell.rate for cell in self.cells)
        return min((c for c in self.cells if c.rate >= NEAR * most), key=lambda c: (c.slots, c.processes, c.tick_s))

    def with_threads(self, threads: int) -> "Choice | None":
        """Return the measurements with this number of threads per process."""
        cells = tuple(cell for cell in self.cells if cell.threads == threads)
        compiled = tuple(c for c in self.compiled if c.threads == threads)
        return replace(self, cells=cells, compiled=compiled) if cells else None

    def of_model(self, model: str) -> "Choice | None":
        """Return the choice unless it was learned with another model."""
        return self if self.model in (None, model) else None

    def of_path(self, *paths: str) -> "Choice | None":
        """Return the measurements of these paths."""
        cells = tuple(cell for cell in self.cells if cell.path in paths)
        return replace(self, cells=cells) if cells else None

    def tick_s(self, path: str, width: int) -> float | None:
        """Return the seconds per tick of a stack, between its measured neighbours; None if the path was not measured.

        Beyond the widest measured stack the time is taken to grow with the width.
        """
        known = sorted({cell.width: cell.tick_s for cell in self.cells if cell.path == path}.items())
        if not known:
            return None
        below = [item for item in known if item[0] <= width]
        above = [item for item in known if item[0] >= width]
        if not below:
            return known[0][1]
        (low, at_low), (high, at_high) = below[-1], above[0] if above else below[-1]
        if high == low:
            return at_low * width / low if width > low else at_low
        return at_low + (at_high - at_low) * (width - low) / (high - low)

    def including(self, *cells: Cell) -> "Choice":
        """Return the choice with these measurements in place of older ones of the same programs."""
        news = {(c.path, c.width, c.processes, c.threads): c for c in (*self.cells, *cells)}
        return replace(self, cells=tuple(news.values()))

    def with_compiled(self, one: Compiled) -> "Choice":
        """Return the choice with a further compiled stack; what was compiled for the same one before stays known."""
        same = [c for c in self.compiled if (c.width, c.threads) == (one.width, one.threads)]
        known = {name for c in same for name in c.rules} | set(one.rules)
        others = tuple(c for c in self.compiled if c not in same)
        return replace(self, compiled=(*others, replace(one, rules=tuple(sorted(known)))))

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


def key(
    workload: str,
    params: Mapping[str, Scalar],
    micro_batch: int,
    place: str,
    per_tick: int = 1,
    values: Sequence[str] = (),
) -> str:
    """Name the setup for which a choice is valid; `place` is `cpu()` or a GPU's name.

    `values` are the workload's parameters that are one number per trial: other programs than with plain numbers.
    """
    parts = {"workload": workload, "params": dict(sorted(params.items())), "micro_batch": micro_batch}
    parts |= {} if per_tick == 1 else {"per_tick": per_tick}
    parts |= {"values": sorted(values)} if values else {}
    return json.dumps(parts | {"place": place, "torch": version("torch"), "dtype": "float32"}, sort_keys=True)


def cache_file() -> Path:
    """Return where choices are kept: `tuner/probe.json` in XDG_CACHE_HOME, or else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tuner" / "probe.json"


def stored(name: str) -> Choice | None:
    """Return the stored choice for a key, or None."""
    return _choice(_read().get(name))


def changed_at() -> float:
    """Return when the file of choices was changed last, 0.0 if there is none."""
    try:
        return cache_file().stat().st_mtime
    except OSError:
        return 0.0


def latest(place: str) -> Choice | None:
    """Return what the latest probe in a place found, for any workload, with the current torch version; or None."""
    found: dict[float, Choice] = {}
    for name, entry in _read().items():
        choice = _choice(entry)
        if choice is not None and _holds_for(name, place) and entry.get("probed"):
            found[float(entry["probed"])] = choice
    return found[max(found)] if found else None


def store(name: str, choice: Choice) -> Path:
    """Store what a probe found; return the file."""
    return _change(name, lambda known: choice, probed=True)


def learn(name: str, *cells: Cell, model: str, compiled: Compiled | None = None) -> Choice:
    """Add what was measured beside the training to what is known of a key; return the whole.

    What was learned with another model is forgotten.
    """
    found: list[Choice] = []

    def add(known: Choice | None) -> Choice:
        same = known.of_model(model) if known is not None else None
        choice = replace(same or Choice(()), model=model).including(*cells)
        found.append(choice if compiled is None else choice.with_compiled(compiled))
        return found[-1]

    with suppress(OSError):  # a cache that cannot be written forgets; this process still knows
        _change(name, add)
    return found[-1] if found else add(None)


def _change(name: str, change: Callable[[Choice | None], Choice], *, probed: bool = False) -> Path:
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        content = _read()
        before, choice = content.get(name), change(_choice(content.get(name)))
        entry = {"at": time.time(), "probed": time.time() if probed else (before or {}).get("probed")}
        entry["cells"] = [asdict(cell) for cell in choice.cells]
        entry["compiled"] = [asdict(one) for one in choice.compiled]
        entry["model"] = choice.model
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(content | {name: entry}, indent=1) + "\n", "utf-8")
        os.replace(draft, path)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with its process. Where there is none (Windows), the last writer wins."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _choice(entry: Any) -> Choice | None:
    try:
        cells = tuple(_cell(**cell) for cell in entry["cells"])
        compiled = tuple(_compiled(**one) for one in entry.get("compiled", ()))
        float(entry["at"])
    except (KeyError, TypeError, ValueError):
        return None
    return Choice(cells, compiled, entry.get("model")) if cells else None


def _cell(path: str, width: int, tick_s: float, processes: int, threads: int, bytes: int | None) -> Cell:
    numbers = int(processes), int(threads), None if bytes is None else int(bytes)
    cell = Cell(str(path), int(width), float(tick_s), *numbers)
    if cell.width < 1 or cell.processes < 1 or not cell.tick_s > 0:
        raise ValueError(f"not a measurement: {cell}")
    return cell


def _compiled(width: int, threads: int, rules: list[str], build_s: float, import_s: float) -> Compiled:
    return Compiled(int(width), int(threads), tuple(map(str, rules)), float(build_s), float(import_s))


def _holds_for(name: str, place: str) -> bool:
    try:
        parts = json.loads(name)
        return bool(parts["place"] == place and parts["torch"] == version("torch"))
    except (KeyError, TypeError, ValueError):
        return False
