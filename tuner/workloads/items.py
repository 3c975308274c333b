"""Data that gives one example at a time: a map-style `Dataset`, with the `collate_fn` of its `DataLoader`.

Examples are put together by PyTorch's `default_collate`, in which every example stands for itself. A `collate_fn` of
one's own gets each example alone, so that no example depends on those read with it; one that pads to the longest gets
the longest of all with them (`padding.py`), and one that would make examples depend on each other is refused. Lists of
numbers in an example, such as the tokens in a row of a Hugging Face data set, are arrays.

A data set that draws random numbers while its first examples are read (random transforms) is read by a process of its
own, where the generators are seeded for every example: by its seed in the trial, or else by its number. So it disturbs
nobody's numbers, and a trial sees the same examples again wherever it runs.
"""

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Data, Numbers, Seeds, Source, as_tensor
from tuner.workloads.padding import Collate, Padded, longest_of, one_shape, stands_alone
from tuner.workloads.processes import Processes
from tuner.workloads.random_numbers import left_alone, seed_all, states
from tuner.workloads.tree import Structure, named_leaves

log = logging.getLogger(__name__)

SPREAD = 8
"""Examples, besides the first two, whose shapes are looked at before the data is used."""
READ_AT_ONCE = 256


@dataclass(frozen=True)
class Workers:
    """The processes that read a data set, as its `DataLoader` says."""

    count: int = 0
    prepare: Callable[[int], object] | None = None
    """Called in each with its number (`worker_init_fn`)."""
    context: Any = None
    """Of `multiprocessing`."""


class Items(Source):
    """Examples of an object with a length that takes an index, each read as a whole."""

    def __init__(
        self, field: str, dataset: Any, collate: Collate | None = None, workers: Workers | None = None
    ) -> None:
        """Read the first examples. Raises `InvalidInput` where they are no tensors or depend on each other.

        None for `collate` is `default_collate`.
        """
        self._field, self._dataset, self._collate = field, dataset, collate
        self._workers = workers or Workers()
        self._lock = threading.Lock()
        self._padded: Padded | None = None
        self._seeded = False
        """Whether the generators are seeded for every example."""
        with left_alone():
            before = states()
            first = self._fetch(np.arange(min(2, len(dataset))), None)
            self._seeded = states() != before
            batch = self._batch(copy.deepcopy(first[:1]))  # a collate_fn may change what it gets
            self.structure, leaves = Structure.of(batch)
            self._check(batch, leaves)
            if collate is not None and len(dataset) > 1:
                self._padded = self._padding(collate, first)
        self.augments = self._seeded or hasattr(dataset, "augmented")

    def __len__(self) -> int:
        """See `Source`."""
        return len(self._dataset)

    def read(self, numbers: Numbers, seeds: Seeds | None = None) -> Data:
        """See `Source.read`; by one thread at a time, since data sets keep files open."""
        with self._lock, left_alone() if self._seeded else nullcontext():
            return self.read_unlocked(numbers, seeds)

    def read_unlocked(self, numbers: Numbers, seeds: Seeds | None) -> Data:
        """Read, where there is one thread only: in a process of its own."""
        items = self._fetch(numbers, seeds)
        if self._padded is not None:
            return self._padded(items, self._leaves)
        if self._collate is None:
            return self._leaves(self._batch(items))
        parts = [self._leaves(self._batch([item])) for item in items]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def opened(self) -> Source:
        """See `Source.opened`."""
        count = max(self._workers.count, int(self._seeded))
        return _Shared(self, replace(self._workers, count=count)) if count else self

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind: a process that is not forked has a copy, and reads without it."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def _fetch(self, numbers: Numbers, seeds: Seeds | None) -> list[Any]:
        if seeds is not None and hasattr(self._dataset, "augmented"):
            each = zip(numbers.tolist(), seeds.tolist(), strict=True)
            return [self._dataset.augmented(number, seed) for number, seed in each]
        if self._seeded:
            return [
                self._drawn(*each)
                for each in zip(numbers.tolist(), (numbers if seeds is None else seeds).tolist(), strict=True)
            ]
        if hasattr(self._dataset, "__getitems__"):  # torch's own way to read many
            return list(self._dataset.__getitems__(numbers.tolist()))
        return [self._dataset[number] for number in numbers.tolist()]

    def _drawn(self, number: int, seed: int) -> Any:
        seed_all(seed)
        return self._dataset[number]

    def _batch(self, items: list[Any]) -> Any:
        if self._collate is not None:
            return self._collate(items)
        try:
            return default_collate([_arrays(item, outermost=True) for item in items])
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            message = f"has examples that do not make a batch; pad them to a fixed length: {error}"
            raise InvalidInput([Fault(self._field, message)]) from error

    def _leaves(self, batch: Any) -> Data:
        try:
            return tuple(as_tensor(leaf) for leaf in self.structure.flatten(batch))
        except (KeyError, ValueError) as error:
            message = f"has examples that are not made like the first one: {type(error).__name__}: {error}"
            raise InvalidInput([Fault(self._field, message)]) from error

    def _check(self, batch: Any, leaves: Sequence[Any]) -> None:
        wrong = [
            f"{place or 'the example'} is {type(leaf).__name__}"
            for place, leaf in named_leaves(batch)
            if not isinstance(leaf, Tensor | np.ndarray)
        ]
        if wrong or not leaves:
            found = ", ".join(wrong[:3]) or "it is empty"
            message = (
                f"gives examples that are no numbers: {found}; allowed are tensors, arrays, numbers and lists of them"
            )
            raise InvalidInput(
                [Fault(self._field, f"{message} (leave the others out in `collate_fn` or `__getitem__`)")]
            )
        if any(len(leaf.shape) == 0 or len(leaf) != 1 for leaf in leaves):
            shapes = [list(leaf.shape) for leaf in leaves]
            message = f"has a collate_fn that makes {shapes} of one example; allowed are tensors [1, ...]"
            raise InvalidInput([Fault(self._field, message)])

    def _padding(self, collate: Collate, pair: list[Any]) -> Padded | None:
        """Return how a collate_fn pads; None if every example stands for itself. Raises `InvalidInput` for others."""
        spread = np.unique(np.linspace(0, len(self._dataset) - 1, SPREAD).astype(np.int64))
        if stands_alone(collate, pair) and one_shape(collate, [pair[0], *self._fetch(spread, None)]):
            return None
        if Padded(collate, pair).holds_for(pair):
            log.info("reading all examples to find the longest", extra={"action": "load", "examples": len(self)})
            padded = Padded(collate, longest_of(collate, self._each()))
            if padded.holds_for(pair):
                return padded
        message = (
            "has a collate_fn in which an example's numbers depend on the others; allowed is one in which each stands "
            "for itself, but for padding to the longest, with the batch as the first dim: draw random numbers in "
            "`__getitem__` of the data set, and mix examples in Task(transform=...)"
        )
        raise InvalidInput([Fault(self._field, message)])

    def _each(self) -> Iterator[Any]:
        for start in range(0, len(self), READ_AT_ONCE):
            yield from self._fetch(np.arange(start, min(start + READ_AT_ONCE, len(self))), None)


class _Shared(Source):
    """The same examples, read by processes. The first of them are read where the data set was made."""

    def __init__(self, items: Items, workers: Workers) -> None:
        self.structure, self.augments = items.structure, items.augments
        self._items = items
        self._processes = Processes(items.read_unlocked, workers.count, workers.prepare, workers.context)

    def __len__(self) -> int:
        return len(self._items)

    def read(self, numbers: Numbers, seeds: Seeds | None = None) -> Data:
        """See `Source.read`; each process reads a share."""
        return self._processes.read(numbers, seeds)

    def close(self) -> None:
        """See `Source.close`."""
        self._processes.close()


def _arrays(item: Any, outermost: bool = False) -> Any:
    """Return an example whose lists of numbers are arrays; as a whole, a list is a tuple: inputs and targets."""
    if isinstance(item, Mapping):
        return {key: _arrays(value) for key, value in item.items()}
    if isinstance(item, list) and not outermost and _is_numbers(item):
        return torch.as_tensor(item)
    if isinstance(item, tuple | list):
        parts = [_arrays(part) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
    return item


def _is_numbers(item: Any) -> bool:
    if isinstance(item, list):
        return bool(item) and all(map(_is_numbers, item))
    return isinstance(item, int | float)
