"""Validation data where an evaluation reads it: on the device as a whole, or part by part where it does not fit.

Either way a part has the same bits, and how data is cut into parts does not depend on where it is.
"""

import weakref
from typing import Any

import numpy as np
import torch

from tuner.engine.feed import on_device
from tuner.errors import InvalidInput
from tuner.workloads.examples import Data, Source

SHARE = 0.5
"""Share of a GPU's free memory that validation data may use."""
MOST_READ_BYTES = 2**31
"""Of data that is not tensors already, and is kept when it has been read. Fixed: there may be many processes."""
READ_BYTES = 2**26
"""Read at once, about, while data is brought to the device."""


class ValidationData:
    """A source's examples on a device, floating-point tensors in its dtype."""

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype) -> None:
        """Read what fits. Exceptions of the data's own code propagate."""
        self._source, self._device, self._dtype = source.opened(), device, dtype
        self.structure = source.structure
        self.resident: Data | None = None
        """All examples, if they are on the device."""
        tensors = source.tensors
        first = source.read(np.zeros(1, np.int64)) if tensors is None else tuple(item[:1] for item in tensors)
        self._shapes = [item.shape[1:] for item in first]
        each = sum(item.nbytes for item in on_device(first, device, dtype))
        if _fits(each * len(source), device, in_memory=tensors is not None):
            self.resident = self._all(max(1, READ_BYTES // max(1, each)))
            self._source.close()
        else:
            weakref.finalize(self, self._source.close)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._source)

    def part(self, start: int, stop: int) -> Data:
        """Return the examples from `start` to `stop`; views, where the data is resident."""
        if self.resident is not None:
            whole = start == 0 and stop == len(self)
            return self.resident if whole else tuple(item[start:stop] for item in self.resident)
        return on_device(self._read(start, stop), self._device, self._dtype)

    def targets(self, start: int, stop: int) -> list[Any]:
        """Return the targets of a part."""
        return self.structure.targets(self.part(start, stop))

    def _all(self, size: int) -> Data:
        tensors = self._source.tensors
        if tensors is not None:
            return on_device(tensors, self._device, self._dtype)
        starts = range(0, len(self), size)
        parts = [on_device(self._read(at, min(at + size, len(self))), self._device, self._dtype) for at in starts]
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))

    def _read(self, start: int, stop: int) -> Data:
        tensors = self._source.tensors
        if tensors is not None:
            return tuple(item[start:stop] for item in tensors)
        found = self._source.read(np.arange(start, stop))
        for item, shape in zip(found, self._shapes, strict=True):
            if item.shape != (stop - start, *shape):
                expected = [stop - start, *shape]
                raise InvalidInput(
                    f"the validation data gave {list(item.shape)} for {stop - start} examples, not {expected}"
                )
        return found


def _fits(needed: int, device: torch.device, in_memory: bool) -> bool:
    """Whether data may be kept on a device as a whole."""
    if device.type == "cuda" and needed > SHARE * torch.cuda.mem_get_info(device)[0]:
        return False
    return in_memory or needed <= MOST_READ_BYTES
