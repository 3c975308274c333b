"""Views of parameters for matrix rules: flattened to matrices, grouped by shape, cut into blocks, selected by trial.

A parameter [T, m, ...] is the matrix [T, m, k] with k the product of all dims after the first: a convolution's kernel
[out, in, kh, kw] is [out, in · kh · kw]. Scales use this flattened shape.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.optimizers.tensors import Tensors


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (m, k) of a parameter's shape without the trial axis, e.g. (64, 16, 3, 3) -> (64, 144)."""
    return shape[0], math.prod(shape[1:])


def equal_shapes(names: Iterable[str], params: Mapping[str, Tensor]) -> list[list[str]]:
    """Group names by flattened shape (m, k), in order of first appearance."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name in names:
        groups.setdefault(matrix_shape(params[name].shape[1:]), []).append(name)
    return list(groups.values())


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors [T, ...] of one shape as one [len · T, ...]; a single one is returned unchanged."""
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


@dataclass(frozen=True)
class Blocks:
    """A matrix [m, k] cut into down · across blocks of one size [rows, columns]; edge blocks are zero-padded."""

    m: int
    k: int
    down: int
    across: int
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, int], most: int) -> "Blocks":
        """Cut so that no block has a side longer than `most`, into as few and as equal ones as that allows."""
        down, across = (max(1, -(-size // most)) for size in shape)
        return cls(*shape, down, across, -(-shape[0] // down), -(-shape[1] // across))

    @property
    def count(self) -> int:
        """The number of blocks."""
        return self.down * self.across

    def cut(self, matrices: Tensor) -> Tensor:
        """Convert [n, m, k] to [n · count, rows, columns]."""
        if self.count == 1:
            return matrices
        filled = matrices.new_zeros(matrices.shape[0], self.down * self.rows, self.across * self.columns)
        filled[:, : self.m, : self.k] = matrices
        apart = filled.reshape(-1, self.down, self.rows, self.across, self.columns)
        return apart.transpose(2, 3).reshape(-1, self.rows, self.columns)

    def joined(self, blocks: Tensor) -> Tensor:
        """Convert [n · count, rows, columns] back to [n, m, k]."""
        if self.count == 1:
            return blocks
        apart = blocks.reshape(-1, self.down, self.across, self.rows, self.columns).transpose(2, 3)
        return apart.reshape(-1, self.down * self.rows, self.across * self.columns)[:, : self.m, : self.k]


def rows_where(chosen: Sequence[bool], device: torch.device) -> Tensor | None:
    """Return the indices of the chosen trials; None for all of them, which are then used without a copy."""
    if all(chosen):
        return None
    return torch.tensor([row for row, here in enumerate(chosen) if here], device=device)


def picked(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """Return the chosen rows: a copy, or the tensor itself if all are chosen."""
    return tensor if rows is None else tensor[rows]


def write_back(tensor: Tensor, rows: Tensor | None, values: Tensor) -> None:
    """Write the values of chosen rows back; values selected without a copy are already in place."""
    if rows is not None:
        tensor.index_copy_(0, rows, values)
    elif values is not tensor:
        tensor.copy_(values)


def picked_all(tensors: Tensors, rows: Tensor | None) -> Tensors:
    """Return the chosen rows of every tensor."""
    return {name: picked(tensor, rows) for name, tensor in tensors.items()}
