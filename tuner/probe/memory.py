"""How much memory a stack needs: predicted from narrow stacks, so that wide ones are not tried in vain.

The data of a stack (parameters, gradients, sums, slabs, activations) grows linearly with its width; the memory of the
dry run or of one slot's evaluation does not grow at all. So each phase of a stack's life is measured separately at two
narrow widths and extrapolated by its own line; the peak is the highest of the lines. On CPUs every allocation of
torch's allocator is counted, on GPUs the allocator's own peak is read: neither includes the rest of the process.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.autograd.profiler import profile

from tuner.engine.stack import Stack
from tuner.engine.trial import TrialSpec
from tuner.study.hyperparameter import Scalar
from tuner.workloads import Task

NARROW = (2, 4)
"""Widths at which the lines are measured: a single slot often uses different kernels than several."""
HEAP_FACTOR = 1.7
"""On CPUs a process grows by up to this many times the allocator's peak, because of heap fragmentation:
measured 1.05 (text-gpt, loop) and 1.5 to 1.7 (eager, digits and text-gpt). On GPUs torch's allocator decides."""


@dataclass(frozen=True)
class Footprint:
    """The peaks of a stack's phases at one width, in bytes above the initial level.

    The phases: allocation and dry run; admission; a tick in which no slot is due; one in which all slots are due; the
    evaluation of a slot.
    """

    width: int
    phases: tuple[int, ...]
    held: int = 0
    """What the stack holds in the end: parameters, sums, state, extras, data; no activations."""

    @property
    def peak(self) -> int:
        """The most bytes that the stack ever used."""
        return max(self.phases)


def predicted(measured: Sequence[Footprint], width: int) -> int | None:
    """Predict the peak in bytes of a stack of this width from the two widest measurements at other widths.

    Returns None for fewer than two measurements.
    """
    *_, low, high = [None, None, *sorted(measured, key=lambda one: one.width)]
    if low is None or high is None or low.width == high.width:
        return None
    lines = []
    for at_low, at_high in zip(low.phases, high.phases, strict=True):
        slope = (at_high - at_low) / (high.width - low.width)
        lines.append(at_high + slope * (width - high.width))
    return round(max(lines))


def peak_of_stack(
    task: Task, width: int, micro_batch: int, *, path: str = "auto", device: str = "cpu", optimizer: str = "adamw"
) -> int:
    """Predict the peak in bytes of a full stack whose trials all have one optimizer, from stacks 2 and 4 wide.

    This is the memory that torch's allocator hands out; see `HEAP_FACTOR` for the growth of the process.
    """
    place = torch.device(device)

    def build(narrow: int) -> Stack:
        return Stack(task, width=narrow, micro_batch=micro_batch, device=place, path=path)

    found = predicted([footprint(partial(build, narrow), place, optimizer) for narrow in NARROW], width)
    assert found is not None
    return found


def footprint(
    build: Callable[[], Stack], device: torch.device, optimizer: str = "adamw", ticks_per_step: int = 2
) -> Footprint:
    """Build a stack, fill it with trials and measure each phase's peak.

    All slots are due together, in every second tick (or every one): no step can need more.
    """
    stacks: list[Stack] = []

    phases: list[Callable[[], object]] = [
        lambda: stacks.append(build()),
        lambda: fill(stacks[0], optimizer, ticks_per_step),
        lambda: stacks[0].tick(),
        lambda: stacks[0].tick(),
        lambda: stacks[0].evaluate([0]),
    ]
    held, peaks = 0, []
    gc.collect()
    for phase in phases:
        with _counted(device) as count:
            phase()
        peaks.append(held + count.peak)
        held += count.kept
    return Footprint(stacks[0].width, tuple(peaks), held)


def fill(stack: Stack, optimizer: str = "adamw", ticks_per_step: int = 1) -> None:
    """Put an endless trial into every slot, all of them due in the same ticks."""
    batch_size = ticks_per_step * stack.tick_examples
    params: dict[str, Scalar] = {"optimizer": optimizer, "lr": 1e-4, "batch_size": batch_size, **stack.sample}
    for slot in range(stack.free):
        stack.admit(TrialSpec(slot, params, slot, 10**12, report_every=10**12, divergence_factor=1e30))


@dataclass
class _Count:
    """Bytes above the initial level: the maximum, and at the end."""

    peak: int = 0
    kept: int = 0


@contextmanager
def _counted(device: torch.device) -> Iterator[_Count]:
    count = _Count()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield count
        torch.cuda.synchronize(device)
        count.peak = torch.cuda.max_memory_allocated(device) - before
        count.kept = torch.cuda.memory_allocated(device) - before
        return
    with profile(profile_memory=True, use_kineto=True) as seen:
        yield count
    assert seen.kineto_results is not None
    changes = [(e.start_ns(), e.nbytes()) for e in seen.kineto_results.events() if e.name() == "[memory]"]
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        count.kept += change
        count.peak = max(count.peak, count.kept)
