"""The micro-batches of all slots: data on the device, and the order in which each slot sees it.

Orders are computed for many ticks at once and copied to the device as one block; a tick then costs one gather per
tensor. Free slots get example 0, so that their computation is harmless.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from tuner.engine.data_order import DataOrder, Orders, take_each
from tuner.engine.partners import halves
from tuner.engine.slots import Ints, Slots
from tuner.workloads.examples import Source
from tuner.workloads.task import Data

Seeds = NDArray[np.uint64]

BLOCK_TICKS = 64


def on_device(data: Data, device: torch.device, dtype: torch.dtype) -> Data:
    """Move data to a stack's device; floating-point tensors are converted to its dtype."""
    return tuple(t.to(device, dtype if t.is_floating_point() else t.dtype).contiguous() for t in data)


class Feed:
    """Provides (inputs, *targets), each [width, b, ...], tick by tick."""

    def __init__(
        self, source: Source, data: Data, orders: Orders, slots: Slots, width: int, device: torch.device
    ) -> None:
        """`data` are the tensors that the source keeps, on the device."""
        self._data = data
        self._source = source
        self._count = len(source)
        self._mixes = orders.mixes
        self.order = orders.of
        """The stream of a trial's seed."""
        self._slots = slots
        self._orders: dict[int, DataOrder] = {}
        self._block = torch.zeros(BLOCK_TICKS, width, slots.tick_examples, dtype=torch.int64, device=device)
        self._tick = BLOCK_TICKS

    def admit(self, slot: int, seed: int) -> None:
        """Give a slot the data order of a trial's seed, starting after the examples it has already seen."""
        self._orders[slot] = self.order(seed)
        if self._tick < BLOCK_TICKS:
            self._block[self._tick :, slot].copy_(torch.from_numpy(self._ahead([slot], self._tick)[0]))

    def evict(self, slot: int) -> None:
        """Give a slot example 0 from now on."""
        del self._orders[slot]
        self._block[self._tick :, slot] = 0

    def next(self) -> Data:
        """Return the next micro-batch of every slot."""
        if self._tick == BLOCK_TICKS:
            self._tick = 0
            block, slots = np.zeros(self._block.shape, np.int64), list(self._orders)
            block[:, slots] = self._ahead(slots, 0).swapaxes(0, 1)
            self._block.copy_(torch.from_numpy(block))
        index = self._block[self._tick]
        self._tick += 1
        return self.gather(index)

    def take_failures(self) -> dict[int, str]:
        """Return slot -> traceback of reading its examples: data in memory has none (`loader.py` may)."""
        return {}

    def close(self) -> None:
        """Stop background work: there is none here."""

    def sample(self) -> Data:
        """Return micro-batches of the shapes that `next` returns, with the first examples in every slot."""
        count = torch.arange(self._slots.tick_examples, device=self._block.device) % self._count
        return self.gather(count.expand_as(self._block[0]))

    def gather(self, index: torch.Tensor, seeds: Seeds | None = None) -> Data:
        """Return the examples with these numbers, followed by their partners where a transform takes them.

        `seeds` are for data that augments itself (`loader.py`).
        """
        return tuple(item for part in (halves(index) if self._mixes else (index,)) for item in self._examples(part))

    def _examples(self, index: torch.Tensor) -> Data:
        found = self._source.taken(self._data, index.reshape(-1))
        return tuple(item.view(*index.shape, *item.shape[1:]) for item in found)

    def _ahead(self, slots: list[int], tick: int) -> Ints:
        """Return the examples of some slots from this tick of the block on, [slots, ticks, b]."""
        ticks, size = BLOCK_TICKS - tick, self._slots.tick_examples
        orders, starts = [self._orders[slot] for slot in slots], [self._slots.examples(slot) for slot in slots]
        return take_each(orders, starts, ticks * size).reshape(len(slots), ticks, size)
