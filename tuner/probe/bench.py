"""The speed and size of a workload's stacks on this device: measured, never guessed.

A `Bench` measures stacks in its own process. `probe` chooses the paths and widths to try, and skips those that will not
fit; it measures through a team of benches in separate processes (`worker/device/probing.py`), so that contention
between processes is included.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from tuner.engine.batch_dependence import depends_on_batch
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.splitting import splits as splits_batches
from tuner.engine.stack import Stack
from tuner.probe import choice
from tuner.probe.choice import WIDTHS, Cell
from tuner.probe.memory import HEAP_FACTOR, Footprint, footprint, predicted
from tuner.workloads import Task

PATHS = ("loop", "eager", "compiled")
CELL_S = 0.5
"""Seconds for which one path is timed at one width."""
LEAST_STEPS = 3


@dataclass(frozen=True)
class LeftOut:
    """A stack that was not built because its predicted peak, over all processes, exceeds the available memory."""

    path: str
    width: int
    processes: int
    threads: int
    bytes: int


@dataclass(frozen=True)
class Timing:
    """A team's measurement of one kind of stack: seconds per tick, and the footprint of one process's stack."""

    tick_s: float
    footprint: Footprint


class Team(Protocol):
    """Processes that measure the same stack at the same time."""

    processes: int
    threads: int

    def measure(self, path: str, width: int) -> Timing | None:
        """Return the measurement; None if the path falls back to another or runs out of memory."""


class Bench:
    """Measures stacks of one task, one at a time; a team of one process.

    `batch_dependent`: the task's loss depends on which examples share a batch, so that a micro-batch is a whole batch.
    `per_tick`: the micro-batches that its ticks compute, at most as many as asked for.
    """

    processes = 1

    def __init__(
        self, task: Task, micro_batch: int, device: str = "cpu", cell_s: float = CELL_S, per_tick: int = 1
    ) -> None:
        self.threads = torch.get_num_threads()
        self._task, self._micro_batch, self._cell_s = task, micro_batch, cell_s
        self._device = torch.device(device)
        self._stack: Stack | None = None
        self.batch_dependent = depends_on_batch(task, self._device)
        self.per_tick = per_tick if not self.batch_dependent and splits_batches(task, self._device) else 1

    def measure(self, path: str, width: int) -> Timing | None:
        """See `Team.measure`."""
        taken = self.prepare(path, width)
        return None if taken is None else Timing(self.tick_s(), taken)

    def prepare(self, path: str, width: int) -> Footprint | None:
        """Build a stack, fill it with trials that step as often as they can, and warm up."""
        self._stack = None
        gc.collect()

        wanted = "auto" if path == "eager" else path  # "eager" itself would not check whether slots mix

        def build() -> Stack:
            self._stack = Stack(
                self._task,
                width=width,
                micro_batch=self._micro_batch,
                per_tick=self.per_tick,
                device=self._device,
                path=wanted,
                batch="whole" if self.batch_dependent else None,
            )
            if self._stack.path != path:
                raise _AnotherPath
            return self._stack

        try:
            whole = self.batch_dependent or self.per_tick > 1
            return footprint(build, self._device, ticks_per_step=1 if whole else 2)
        except _AnotherPath:
            pass
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._stack = None
        return None

    def tick_s(self) -> float:
        """Return the seconds per tick: half the median over pairs of ticks."""
        assert self._stack is not None
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < LEAST_STEPS or time.perf_counter() - begin < self._cell_s:
            start = time.perf_counter()
            self._stack.tick()
            self._stack.tick()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2] / 2


class _AnotherPath(Exception):
    """The stack fell back to a path that is measured separately."""


def probe(
    team: Team, *, paths: Sequence[str] = PATHS, widths: Sequence[int] = WIDTHS, room: int | None = None
) -> Iterator[Cell | LeftOut]:
    """Measure every path at every width, narrow ones first, with AdamW; yield each cell as soon as it is known.

    A path that falls back to another, or runs out of memory at a width, is not tried at wider ones. `room` is the
    number of bytes that all processes may use together; stacks predicted to need more are not built.
    """
    ended: set[str] = set()
    footprints: dict[str, list[Footprint]] = {path: [] for path in paths}
    for width in widths:
        for path in paths:
            if path in ended:
                continue
            expected = predicted(footprints[path], width)
            if room is not None and expected is not None and expected * team.processes > room:
                ended.add(path)
                yield LeftOut(path, width, team.processes, team.threads, expected)
                continue
            found = team.measure(path, width)
            if found is None:
                ended.add(path)
                continue
            footprints[path].append(found.footprint)
            taken = expected if expected is not None else found.footprint.peak
            yield Cell(path, width, found.tick_s, team.processes, team.threads, taken)


def splits(cores: int, device: torch.device) -> list[tuple[int, int]]:
    """Return (processes, threads of each) to try: all cores for one process, half for each of two, ..., one for each.

    On a GPU there is one process; its threads only feed the GPU.
    """
    if device.type == "cuda":
        return [(1, max(1, min(8, cores)))]
    counts = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return [(processes, cores // processes) for processes in [*counts, cores]]


def allocator_room(room: int | None, device: torch.device) -> int | None:
    """Return how much torch's allocator may hand out if processes may grow by `room` bytes."""
    return room if room is None or device.type == "cuda" else int(room / HEAP_FACTOR)


def place_of(device: torch.device) -> str:
    """Name a device as a place for which choices are valid."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else choice.cpu()
