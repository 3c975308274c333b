"""The micro-batches of all slots for data that is not on the device: one thread gathers those of the next ticks ahead.

The interface, the order and the bits are those of `Feed`: examples are copied unchanged, into memory aligned like
torch's, and rounded once to the stack's type. Invariants:

- Orders are computed in the stack's thread; the loader's thread runs only the data's own code and numpy.
- An exception of the data's own code for one slot's examples fails that slot and no other.
- Data that augments itself (`Augmented`) gets a seed for each example, from the trial's seed, the epoch and the place.
- When the trial of a slot changes, the slot's rows of the ticks gathered ahead are rewritten before they are used.
- An example that several slots want in a tick is read once, and as a whole: unless it is augmented.
- The thread ends with `close`, or when the feed is garbage-collected.
"""

import traceback
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tuner.engine.data_order import DataOrder, Orders, take_each
from tuner.engine.feed import Feed, Seeds, on_device
from tuner.engine.machine.out_of_memory import is_out_of_memory
from tuner.engine.partners import PARTNER_SEED, halves
from tuner.engine.seeds import example_seeds
from tuner.engine.slots import Ints, Slots
from tuner.errors import InvalidInput
from tuner.workloads.examples import Data, Source
from tuner.workloads.task import Task

AHEAD = 4
"""Ticks gathered ahead."""
DEVICE_SHARE = 0.5
"""Share of a GPU's free memory that training data may use; larger data is loaded from the host instead."""


def fits_on(device: torch.device, data: Data) -> bool:
    """Return whether tensors can be kept on the device."""
    needed = sum(item.nbytes for item in data)
    return device.type != "cuda" or needed <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


def feed_of(task: Task, slots: Slots, width: int, device: torch.device, dtype: torch.dtype) -> "AnyFeed":
    """Copy the training data to the device, or leave it in place and load it tick by tick."""
    tensors, orders = task.training.kept, Orders(task.examples, task.weights, task.mixes)
    if tensors is not None and task.resident and fits_on(device, tensors):
        return Feed(task.training, on_device(tensors, device, dtype), orders, slots, width, device)
    return LoadingFeed(task.training, orders, slots, width, device, dtype)


@dataclass
class _Tick:
    """One tick being gathered: the pending writes of its rows, in order, and the failures, by slot."""

    buffers: list[Tensor]
    failures: dict[int, str] = field(default_factory=dict)
    jobs: "list[Future[None]]" = field(default_factory=list)


class LoadingFeed:
    """Hands out the tensors of a source, each [width, b, ...], tick by tick."""

    def __init__(
        self, source: Source, orders: Orders, slots: Slots, width: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        source = source.opened()
        self._reader = _Reader(source, device, dtype, orders.mixes)
        self._examples = len(source)
        self.order = orders.of
        """The stream of a trial's seed."""
        self._slots = slots
        self._width = width
        self._device = device
        self._dtype = dtype
        self._orders: dict[int, DataOrder] = {}
        self._ticks: deque[_Tick] = deque()
        self._failures: dict[int, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._end = weakref.finalize(self, _end, self._thread, source)

    def close(self) -> None:
        """Stop the thread, and what it reads from."""
        self._end()

    def admit(self, slot: int, seed: int) -> None:
        """Give a slot the data order of a trial's seed, starting after the examples it has already seen."""
        self._orders[slot] = self.order(seed)
        if self._ticks:
            indexes = self._indexes([slot], 0, len(self._ticks)).swapaxes(0, 1)
            for ahead, (tick, index) in enumerate(zip(self._ticks, indexes, strict=True)):
                seeds = self._seeds(slot, ahead)[None]
                tick.jobs.append(self._thread.submit(_fill, self._reader, tick, np.array([slot]), index, seeds))

    def evict(self, slot: int) -> None:
        """Give a slot example 0 from now on, including in the ticks gathered ahead."""
        del self._orders[slot]

    def next(self) -> Data:
        """Return the next micro-batch of every slot; slots in `take_failures` got zeros."""
        while len(self._ticks) <= AHEAD:
            self._request(len(self._ticks))
        tick = self._ticks.popleft()
        for job in tick.jobs:
            job.result()
        self._failures |= {slot: error for slot, error in tick.failures.items() if slot in self._orders}
        return self._to_device(tick.buffers)

    def take_failures(self) -> dict[int, str]:
        """Return slot -> traceback of exceptions in the data's own code since the last call."""
        failures, self._failures = self._failures, {}
        return failures

    def sample(self) -> Data:
        """Return micro-batches of the shapes that `next` returns, with the first examples in every slot."""
        count = torch.arange(self._slots.tick_examples) % self._examples
        return self.gather(count.expand(self._width, -1))

    def gather(self, index: Tensor, seeds: Seeds | None = None) -> Data:
        """Return the examples with these numbers, read in the caller's thread. Exceptions of their code propagate.

        Their partners follow where a transform takes them. They are augmented with `seeds`, of the shape of `index`,
        or else left as they are.
        """
        numbers = index.cpu().numpy()
        buffers = self._reader.allocate(numbers.shape)
        self._reader.read(numbers, buffers, seeds)
        return self._to_device(buffers)

    def _request(self, ahead: int) -> None:
        """Start gathering the tick that comes this many ticks after the next."""
        index, slots = np.zeros((self._width, self._slots.tick_examples), np.int64), list(self._orders)
        index[slots] = self._indexes(slots, ahead, 1)[:, 0]
        seeds = np.zeros(index.shape, np.uint64)
        for slot in slots:
            seeds[slot] = self._seeds(slot, ahead)
        tick = _Tick(self._reader.allocate(index.shape))
        tick.jobs.append(self._thread.submit(_fill, self._reader, tick, np.arange(self._width), index, seeds))
        self._ticks.append(tick)

    def _indexes(self, slots: list[int], ahead: int, ticks: int) -> Ints:
        """Return the examples of some slots in the ticks that come this many after the next, [slots, ticks, b]."""
        size = self._slots.tick_examples
        starts = [self._slots.examples(slot) + ahead * size for slot in slots]
        return take_each([self._orders[slot] for slot in slots], starts, ticks * size).reshape(len(slots), ticks, size)

    def _seeds(self, slot: int, ahead: int) -> Seeds:
        size = self._slots.tick_examples
        return example_seeds(self._orders[slot].seed, self._slots.examples(slot) + ahead * size, size)

    def _to_device(self, buffers: Sequence[Tensor]) -> Data:
        return tuple(
            item.to(self._device, self._dtype if item.is_floating_point() else item.dtype, non_blocking=True)
            for item in buffers
        )


def _end(thread: ThreadPoolExecutor, source: Source) -> None:
    thread.shutdown(wait=False, cancel_futures=True)
    source.close()


class _Reader:
    """Reads examples into memory that is fit for the device: their shapes and types are those of the first one."""

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype, mixes: bool) -> None:
        self._source = source
        self._mixes = mixes
        first = source.read(np.zeros(1, np.int64))
        self._shapes = [item.shape[1:] for item in first]
        rounds = dtype in (torch.float32, torch.float64)  # while copying
        self._dtypes = [dtype if rounds and item.is_floating_point() else item.dtype for item in first]
        self._pinned = device.type == "cuda"

    def allocate(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Return memory for examples [*shape, ...]; pinned memory is reused once its copy to the GPU is done."""
        return [
            torch.empty((*shape, *own), dtype=dtype, pin_memory=self._pinned)
            for _ in range(1 + self._mixes)
            for own, dtype in zip(self._shapes, self._dtypes, strict=True)
        ]

    def read(self, index: Ints, into: Sequence[Tensor], seeds: Seeds | None) -> None:
        """Copy the examples of a block of numbers into memory of the same leading shape, and their partners."""
        if not self._mixes:
            self._read(index, into, seeds)
            return
        numbers, partners = halves(index)
        self._read(numbers, into[: len(self._shapes)], seeds)
        self._read(partners, into[len(self._shapes) :], None if seeds is None else seeds ^ PARTNER_SEED)

    def _read(self, index: Ints, into: Sequence[Tensor], seeds: Seeds | None) -> None:
        """An example that is wanted more than once is read once, unless it is augmented."""
        numbers = index.reshape(-1)
        if seeds is not None and self._source.augments:
            found, places = self._source.read(numbers, seeds.reshape(-1)), None
        else:
            numbers, places = _once(numbers)
            found = self._source.read(numbers)
        for item, own, buffer in zip(found, self._shapes, into, strict=True):
            if not np.can_cast(item.numpy().dtype, buffer.numpy().dtype, "same_kind"):
                raise InvalidInput(f"the training data gave {item.dtype}, not {buffer.dtype} as for its first example")
            if item.shape != (len(numbers), *own):
                expected = [len(numbers), *own]
                raise InvalidInput(
                    f"the training data gave {list(item.shape)} for {len(numbers)} examples, not {expected}"
                )
            values = item.numpy() if places is None else item.numpy()[places]
            buffer.numpy()[...] = values.reshape(buffer.shape)


def _once(numbers: Ints) -> tuple[Ints, Ints | None]:
    """Return different numbers, in the order in which they first come, and where each of the given ones is there."""
    different, first, places = np.unique(numbers, return_index=True, return_inverse=True)
    if len(different) == len(numbers):
        return numbers, None
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return different[order], rank[places]


def _fill(reader: _Reader, tick: _Tick, slots: Ints, index: Ints, seeds: Seeds) -> None:
    """Read the examples `index` [n, b] of some slots, with their seeds; runs in the loader's thread."""
    try:
        if len(slots) == len(tick.buffers[0]):
            reader.read(index, tick.buffers, seeds)
        else:
            reader.read(index[0], [buffer[slots[0]] for buffer in tick.buffers], seeds[0])
        for slot in slots.tolist():
            tick.failures.pop(slot, None)
    except Exception as error:  # the trials' boundary: the data's own code runs here
        if is_out_of_memory(error):
            raise
        if len(slots) > 1:
            for slot, row, own in zip(slots, index, seeds, strict=True):
                _fill(reader, tick, np.array([slot]), row[None], own[None])
            return
        tick.failures[int(slots[0])] = traceback.format_exc()
        for buffer in tick.buffers:
            buffer[int(slots[0])] = 0


AnyFeed: TypeAlias = Feed | LoadingFeed
"""The source of a stack's examples."""
