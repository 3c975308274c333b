"""What training and validation data may be made of, and how examples are read from it.

Whatever it is, data is read as a `Source`: by example number, as a flat tuple of CPU tensors. Invariant: an example has
the same bits whichever others it is read with.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuner.workloads.tree import Structure

Data = tuple[Tensor, ...]
"""The tensors of a batch, flat: inputs first, then targets; all with the same number of examples along dim 0."""

Numbers = NDArray[np.int64]
Seeds = NDArray[np.uint64]


@runtime_checkable
class Indexed(Protocol):
    """Examples that need not be in memory, e.g. a `numpy.memmap`, or your own object that reads files."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: NDArray[np.int64], /) -> Any:
        """Return the examples with these numbers [n], in this order, as an array or CPU tensor [n, ...].

        Called from an engine thread, and from the thread that builds a stack.
        """


@runtime_checkable
class Augmented(Indexed, Protocol):
    """Training examples that differ from epoch to epoch and from trial to trial, yet not from run to run."""

    def augmented(self, index: NDArray[np.int64], seeds: NDArray[np.uint64], /) -> Any:
        """Return the examples with these numbers [n], each changed at random as its own seed says, [n, ...].

        `seeds` [n] depend only on the trial's seed, the epoch and the example's place in it; they are the same for
        every part of the data. Dry runs and recomputed statistics use the plain examples.
        """


Examples = Tensor | Indexed
"""One part of the data."""


class Source(ABC):
    """Examples by number, as flat tuples of tensors whose `structure` says what they are."""

    structure: Structure
    augments: bool
    """Whether examples change with their seeds."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def read(self, numbers: Numbers, seeds: Seeds | None = None) -> Data:
        """Return the examples with these numbers [n], each tensor [n, ...] on the CPU; `seeds` [n] augment them.

        Exceptions of the data's own code propagate.
        """

    @property
    def parts(self) -> tuple[Examples, ...]:
        """What was given for each tensor of `structure`; none where examples are given as a whole."""
        return ()

    @property
    def tensors(self) -> Data | None:
        """All examples, if they are tensors in memory already."""
        found = tuple(part for part in self.parts if isinstance(part, Tensor))
        return found if found and len(found) == len(self.parts) else None

    @property
    def given(self) -> tuple[Examples, ...]:
        """The user's own tensors and arrays, from which examples are read."""
        return self.parts

    @property
    def kept(self) -> Data | None:
        """The tensors that a device may hold as a whole, for `taken` to make examples of; None if there are none."""
        return self.tensors

    def taken(self, kept: Data, numbers: Tensor) -> Data:
        """Return the examples with these numbers [n], each tensor [n, ...], of the tensors kept on a device."""
        return tuple(item.index_select(0, numbers) for item in kept)

    def opened(self) -> "Source":
        """Return what to read many examples from, in this or in other processes, until it is closed."""
        return self

    def close(self) -> None:  # noqa: B027 - most sources have started nothing
        """End what `opened` has started."""


class Parts(Source):
    """Data given as a structure of tensors and `Indexed` objects, each with all examples."""

    def __init__(self, structure: Structure, parts: Sequence[Examples]) -> None:
        self.structure = structure
        self._parts = tuple(parts)
        self.augments = any(isinstance(part, Augmented) for part in parts)

    def __len__(self) -> int:
        """See `Source`."""
        return len(self._parts[0])

    def read(self, numbers: Numbers, seeds: Seeds | None = None) -> Data:
        """See `Source.read`."""
        return tuple(_read(part, numbers, seeds) for part in self._parts)

    @property
    def parts(self) -> tuple[Examples, ...]:
        """See `Source.parts`."""
        return self._parts


def as_tensor(found: object) -> Tensor:
    """Return an array or tensor as a CPU tensor in this machine's byte order, which may share its memory."""
    if isinstance(found, Tensor):
        return found.detach().cpu()
    array = np.ascontiguousarray(np.asarray(found))
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _read(part: Examples, numbers: Numbers, seeds: Seeds | None) -> Tensor:
    if seeds is not None and isinstance(part, Augmented):
        return as_tensor(part.augmented(numbers, seeds))
    if not isinstance(part, Tensor):
        return as_tensor(part[numbers])
    if part.device.type == "cpu" and part.dtype != torch.bfloat16:
        return as_tensor(part.numpy()[numbers])  # numpy starts no threads of its own
    return part[torch.from_numpy(numbers).to(part.device)].cpu()
