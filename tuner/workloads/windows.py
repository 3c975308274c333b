"""Windows over one long sequence, such as the tokens of a corpus: examples that need not be copied out of it.

    train=tuner.Windows(tokens, length=128, stride=64)

Example n is the `length` entries from n * stride on as input, and the entry after each of them as target. Windows may
overlap: only the sequence is kept, on the device if it is a tensor that fits there, and windows are gathered from it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.workloads.examples import Data, Examples, Numbers, Seeds, Source, as_tensor
from tuner.workloads.tree import Structure

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}
"""Types in which tensors cannot be gathered on every device, and those that hold their numbers."""


class Windows(Source):
    """Training or validation data of (inputs, targets), each [n, length, ...], int64 for sequences of whole numbers."""

    augments = False

    def __init__(self, sequence: Any, length: int, stride: int | None = None) -> None:
        """`sequence` [T, ...] is a tensor, or an array such as a `numpy.memmap`, which is read where it lies.

        `stride` is the number of entries from one window to the next, `length` if it is not given: no overlap.

        Raises:
            InvalidInput: the arguments are no such thing, or the sequence is too short for one window and its target.
        """
        if not isinstance(sequence, Tensor | np.ndarray) or len(sequence.shape) == 0:
            raise _refused("sequence", f"is {type(sequence).__name__}; allowed are a tensor and an array, [T, ...]")
        stride = length if stride is None else stride
        for name, value in (("length", length), ("stride", stride)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise _refused(name, f"is {value!r}; allowed is a whole number of at least 1")
        if len(sequence) < length + 1:
            raise _refused("length", f"is {length}; allowed is less than the sequence's {len(sequence)} entries")
        self._sequence, self._length, self._stride = sequence, length, stride
        self.structure = Structure.of((0, 0))[0]

    def __len__(self) -> int:
        """Return the number of windows: the last one's targets are within the sequence."""
        count: int = (len(self._sequence) - 1 - self._length) // self._stride + 1
        return count

    def read(self, numbers: Numbers, seeds: Seeds | None = None) -> Data:
        """See `Source.read`."""
        places = numbers[:, None] * self._stride + np.arange(self._length + 1)
        if isinstance(self._sequence, Tensor):
            found = self._sequence[torch.from_numpy(places).to(self._sequence.device)]
        else:
            found = as_tensor(self._sequence[places])
        return _shifted(found.cpu())

    @property
    def given(self) -> tuple[Examples, ...]:
        """See `Source.given`."""
        return (self._sequence,)

    @property
    def kept(self) -> Data | None:
        """See `Source.kept`."""
        if not isinstance(self._sequence, Tensor):
            return None
        return (self._sequence.to(_WIDER.get(self._sequence.dtype, self._sequence.dtype)),)

    def taken(self, kept: Data, numbers: Tensor) -> Data:
        """See `Source.taken`."""
        (sequence,) = kept
        places = numbers[:, None] * self._stride + torch.arange(self._length + 1, device=numbers.device)
        return _shifted(sequence[places])


def _shifted(found: Tensor) -> Data:
    """Return inputs and targets of windows [n, length + 1, ...]."""
    values = found if found.is_floating_point() or found.is_complex() else found.long()
    return values[:, :-1].contiguous(), values[:, 1:].contiguous()


def _refused(name: str, why: str) -> InvalidInput:
    return InvalidInput([Fault(f"Windows.{name}", why)])
