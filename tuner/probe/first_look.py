"""A short measurement before a workload's first stack is built: which uncompiled path, and how wide.

It takes a fraction of a second where ticks are short, and a few ticks where they are long. Invariants: widths are tried
from the narrow side, and only while wider stacks are clearly faster and their memory is there, which is measured twice
before it ends the search; an error of the workload's code is raised, not hidden. On CPUs with one thread the thread's
own CPU time counts, and the fastest of a few rounds, so that what else runs on the machine does not decide: the choice
is kept.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch

from tuner.engine.machine.allocator import give_back
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.paths.loop import MEASURED_EVERY
from tuner.engine.stack import Stack
from tuner.errors import TunerError
from tuner.probe.choice import Cell
from tuner.probe.memory import fill
from tuner.probe.plan import GAIN
from tuner.workloads import Task

BIG = 2**26
"""Bytes from which on a stack's memory is given back before the next one is built."""
CELL_S, ROUNDS = 0.03, 3
"""Seconds for which one stack is timed, if its ticks are short, and in how many rounds."""
TRIED_TICKS = 20
"""Ticks of one trial that the first look at several slots costs, its dry run included."""
CHEAP_S, SHARE = 0.5, 0.02
"""What it may cost: so many seconds, or this share of the work to come."""
SHORT_S, SHORT_SHARE = 3e-3, 0.3
"""Ticks of one trial below this are mostly calls, which several slots share: then it may cost this share."""
LOADING_S = 1.1
"""What the first pass of several slots takes to import parts of PyTorch that a loop does not need."""
LONG_S = 0.3
"""Above this, a single step is timed."""


class Unfit(TunerError):
    """Trials ended in the middle of a measurement: the workload's code raises. A trial will show the error."""


def first_look(
    task: Task,
    micro_batch: int,
    device: torch.device,
    widths: Sequence[int],
    *,
    per_tick: int = 1,
    batch: Literal["whole", "parts"] | None = None,
    room: int | None = None,
    expected: float = float("inf"),
) -> Iterator[Cell]:
    """Measure the loop at width 1 and eager stacks at `widths` (ascending) with AdamW; yield each at once.

    `room` is the number of bytes that the stack may take; `expected` the ticks of single trials that are to come: where
    they are few and long, a look at several slots would cost more than it can gain.
    """
    ticks = steps_every(batch, per_tick)
    build = partial(Stack, task, micro_batch=micro_batch, per_tick=per_tick, device=device, batch=batch)
    best = 0.0
    narrow: Cell | None = None
    found: Cell | None
    path = "loop"
    for width in (1, *(width for width in widths if width > 1)):
        if narrow is not None and room is not None and narrow.bytes and narrow.bytes / narrow.width * width > room:
            return
        enough = best * (1.0 if narrow is None or narrow.width == 1 else GAIN)
        try:
            found = _measured(partial(build, width=width, path=path), device, ticks)
            if found.width / found.tick_s < enough and found.tick_s < LONG_S:
                again = _measured(partial(build, width=width, path=found.path), device, ticks)
                found = min(found, again, key=lambda cell: cell.tick_s)
        except Unfit:
            return
        except Exception as error:
            if narrow is None or not is_out_of_memory(error):
                raise
            found = None
        if found is None or (found.bytes or 0) > BIG:
            give_back(device)  # a stack's memory is only freed by the garbage collector
        if found is None:
            return
        yield found
        if narrow is None and not worth_going_on(found.tick_s, expected):
            return
        path = "auto" if narrow is None else found.path  # the first several slots find out whether they can be stacked
        rate = found.width / found.tick_s
        if rate < enough:
            return
        best, narrow = max(best, rate), found


def worth_going_on(tick_s: float, expected: float) -> bool:
    """Whether to look at several slots, after one trial's tick has been timed and so many ticks are to come."""
    cost = TRIED_TICKS * tick_s + (0.0 if "torch._dynamo" in sys.modules else LOADING_S)
    return cost <= max(CHEAP_S, (SHORT_SHARE if tick_s < SHORT_S else SHARE) * expected * tick_s)


def steps_every(batch: str | None, per_tick: int) -> int:
    """Return the ticks of the shortest step: two where that takes two to see the noise."""
    return 1 if batch == "whole" or per_tick > 1 else 2


def clock(device: torch.device) -> Callable[[], float]:
    """Return the clock that measures ticks on a device, in seconds."""
    if device.type == "cuda":

        def synchronized() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return synchronized
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def tick_s(stack: Stack, ticks: int, cell_s: float = CELL_S) -> float:
    """Return the seconds per tick of a full stack whose slots step every `ticks` ticks, after one step to warm up."""
    now = clock(stack.device)
    begin = now()
    for _ in range(ticks):
        stack.tick()
    first = now() - begin
    if first > LONG_S * ticks:
        return first / ticks
    rounds = []
    if stack.path == "loop" and stack.per_tick > 1:
        ticks *= MEASURED_EVERY  # some of its steps take longer
    for _ in range(ROUNDS):
        count, begin = 0, now()
        while count == 0 or now() - begin < cell_s / ROUNDS:
            for _ in range(ticks):
                stack.tick()
            count += ticks
        rounds.append((now() - begin) / count)
    return min(rounds)


def _measured(build: Callable[[], Stack], device: torch.device, ticks: int) -> Cell:
    before = _taken(device)
    stack = build()
    try:
        fill(stack, ticks_per_step=ticks)
        seconds = tick_s(stack, ticks)
        if stack.free:
            raise Unfit
        return Cell(stack.path, stack.width, seconds, 1, torch.get_num_threads(), max(0, _taken(device) - before))
    finally:
        stack.close()


def _taken(device: torch.device) -> int:
    """Return the most bytes that this process has taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
