"""The extras of slots: buffers and frozen parameters, one stacked tensor per name.

Invariant: each slot's part starts at a multiple of 64 bytes and is allocated once (see `layout.py` for why); writing to
one slot never touches another.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tuner.engine.layout import ALIGNMENT_BYTES

Tensors = dict[str, Tensor]


class Extras:
    """Named tensors of `width` slots, shaped like those of a template; a free slot holds the template's values."""

    def __init__(self, template: Mapping[str, Tensor], width: int) -> None:
        self._template = dict(template)
        self.stacked: Tensors = {name: _allocate(tensor, width) for name, tensor in template.items()}
        """Name -> [width, ...]; written in place only."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.stacked)

    def __len__(self) -> int:
        return len(self.stacked)

    def __getitem__(self, slot: int) -> Tensors:
        """Return a slot's tensors as views."""
        return {name: tensor[slot] for name, tensor in self.stacked.items()}

    def __setitem__(self, slot: int, values: Mapping[str, Tensor]) -> None:
        """Copy a slot's tensors in."""
        for name, tensor in self.stacked.items():
            tensor[slot].copy_(values[name])

    def release(self, slot: int) -> None:
        """Reset a slot to harmless values."""
        self[slot] = self._template

    def rows(self, index: Tensor) -> Tensors:
        """Return copies of some slots' tensors, [n, ...]."""
        return {name: tensor.index_select(0, index) for name, tensor in self.stacked.items()}


def _allocate(tensor: Tensor, width: int) -> Tensor:
    unit = max(1, ALIGNMENT_BYTES // tensor.element_size())
    row = -(-tensor.numel() // unit) * unit
    flat = torch.zeros(width, row, dtype=tensor.dtype, device=tensor.device)
    stacked = flat[:, : tensor.numel()].view(width, *tensor.shape)
    return stacked.copy_(tensor)
