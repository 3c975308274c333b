"""Which path and width trains a workload fastest on this device: measured, never guessed.

A choice holds for one key: workload and its parameters, micro-batch, type, threads, versions, device. Choices are kept
in a JSON file in the user's cache directory; a file that cannot be read counts as empty.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tuner.engine.out_of_memory import is_out_of_memory
from tuner.engine.stack import Stack
from tuner.engine.trial import TrialSpec
from tuner.study.hyperparameter import Scalar
from tuner.workloads import Task

WIDTHS = (1, 4, 16, 64)
CELL_S = 0.5
"""How long one path is timed at one width."""
LEAST_TICKS = 5
NEAR = 0.95
"""A narrower stack with this share of the best rate is preferred: its trials end sooner."""


@dataclass(frozen=True)
class Cell:
    """One measurement: `path` is the one that really ran; `tick_s` is the median seconds of a tick."""

    path: str
    width: int
    tick_s: float

    @property
    def rate(self) -> float:
        """Trial-ticks per second."""
        return self.width / self.tick_s


@dataclass(frozen=True)
class Choice:
    """All measurements of one key."""

    cells: tuple[Cell, ...]

    @property
    def best(self) -> Cell:
        """The narrowest of those that are nearly as fast as the fastest."""
        most = max(cell.rate for cell in self.cells)
        return min((c for c in self.cells if c.rate >= NEAR * most), key=lambda c: (c.width, c.tick_s))

    def path_at(self, width: int) -> str:
        """Return the fastest path for stacks of this width: that of the widest measured ones that are not wider."""
        fitting = [cell.width for cell in self.cells if cell.width <= width] or [min(c.width for c in self.cells)]
        return max((cell for cell in self.cells if cell.width == max(fitting)), key=lambda cell: cell.rate).path


def probe(
    task: Task, micro_batch: int, *, device: str = "cpu", widths: tuple[int, ...] = WIDTHS, cell_s: float = CELL_S
) -> Iterator[Cell]:
    """Measure every path at every width, narrow ones first, with AdamW; yield each cell as it is known.

    A path that falls back to another, or that a wider stack has no memory for, is left out from there on.
    """
    left_out: set[str] = set()
    for width in widths:
        for path in ("loop", "eager", "compiled"):
            if path in left_out:
                continue
            try:
                stack = Stack(task, width=width, micro_batch=micro_batch, device=device, path=path)
                if stack.path == path:
                    yield Cell(path, width, _median_tick_s(stack, cell_s))
                    continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            left_out.add(path)


def key(workload: str, params: Mapping[str, Scalar], micro_batch: int, device: str) -> str:
    """Name what a choice holds for. The type is float32; threads and versions are this process's."""
    is_gpu = torch.device(device).type == "cuda"
    place = torch.cuda.get_device_name(device) if is_gpu else f"cpu of {os.cpu_count()} cores"
    parts = {"workload": workload, "params": dict(sorted(params.items())), "micro_batch": micro_batch, "device": place}
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": "float32"}
    return json.dumps(parts | versions, sort_keys=True)


def cache_file() -> Path:
    """Return where choices are kept: `tuner/probe.json` in XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tuner" / "probe.json"


def stored(name: str) -> Choice | None:
    """Return the choice that was kept for a key, or None."""
    try:
        cells = _read()[name]
        return Choice(tuple(Cell(str(c["path"]), int(c["width"]), float(c["tick_s"])) for c in cells))
    except (KeyError, TypeError, ValueError):
        return None


def store(name: str, choice: Choice) -> Path:
    """Keep a choice; return the file. Another process that writes at the same moment may win, never tear it."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _read() | {name: [asdict(cell) for cell in choice.cells]}
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(draft, path)
    return path


def _read() -> dict[str, list[dict[str, str | float]]]:
    try:
        content = json.loads(cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _median_tick_s(stack: Stack, cell_s: float) -> float:
    params: dict[str, Scalar] = {"optimizer": "adamw", "lr": 1e-4, "batch_size": stack.micro_batch}
    for slot in range(stack.width):
        stack.admit(TrialSpec(slot, params, slot, 10**12, report_every=10**12, divergence_factor=1e30))
    stack.tick()
    stack.tick()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < LEAST_TICKS or time.perf_counter() - begin < cell_s:
        start = time.perf_counter()
        stack.tick()
        if stack.device.type == "cuda":
            torch.cuda.synchronize(stack.device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
