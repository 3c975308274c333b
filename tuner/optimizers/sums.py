"""Sums over a trial's own elements, with bits that do not depend on other trials.

torch.sum chooses its order of additions by the sizes of its whole input: a single row is split among threads, and a GPU
shapes its blocks by the number of rows. Here rows are folded, elementwise, in an order that depends only on their own
length. Two reductions of torch are used where a CPU never splits a row: torch.sum of short rows, and vector norms.
Pairwise folding is also more accurate: its error grows with the logarithm of the length.
"""

import torch
from torch import Tensor

from tuner.optimizers import devices

_SHORT = 1024
"""Elements of a row that torch.sum adds up in an order of their own on a CPU; elsewhere rows are folded down to one."""
_BLOCK = 4096
"""Row length whose norm a CPU computes without splitting, in the type of the elements."""
_CHUNK = 2**18
"""Elements squared at once when columns are summed, so that they stay in the CPU's cache."""


def total(own: Tensor) -> Tensor:
    """Return the sum over all dims but 0 as float64 [T].

    Args:
        own: [T, ...], e.g. (64, 256, 64), contiguous; its contents are overwritten.
    """
    rows = own.reshape(len(own), -1)
    length = _fold(rows, 1, _SHORT if devices.is_cpu(own) else 1)
    return rows[:, :length].sum(1, dtype=torch.float64)


def total_square(x: Tensor) -> Tensor:
    """Return |x|² over all dims but 0, float64 [T]; `x` [T, ...] is not modified."""
    rows = x.reshape(len(x), -1)
    if not devices.is_cpu(x):
        return total((rows * rows).contiguous())
    whole = rows.shape[1] // _BLOCK * _BLOCK
    last = _row_norms(rows[:, whole:]).double().square_()
    if not whole:
        return last
    blocks = _row_norms(rows[:, :whole].reshape(len(x), -1, _BLOCK))
    return total(blocks.double().square_()).add_(last)


def norm(x: Tensor) -> Tensor:
    """Return |x| over all dims but 0, float64 [T]; `x` [T, ...] is not modified."""
    return total_square(x).sqrt_()


def row_squares(x: Tensor) -> Tensor:
    """Return the sum of squares of each row, [T, ..., m] of matrices [T, ..., m, k]; `x` stays."""
    if devices.is_cpu(x):
        return _row_norms(x).square_()
    return along((x * x).contiguous(), -1)


def column_squares(x: Tensor) -> Tensor:
    """Return the sum of squares of each column, [T, ..., k] of matrices [T, ..., m, k]; `x` stays."""
    at_once = x.shape[-2] if not devices.is_cpu(x) else max(1, _CHUNK // x.shape[-1])
    parts = [along((part * part).contiguous(), -2) for part in torch.split(x, at_once, dim=-2)]
    return parts[0] if len(parts) == 1 else along(torch.stack(parts, -1), -1)


def _row_norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms


def along(own: Tensor, dim: int) -> Tensor:
    """Return the sum over one dim other than 0, in the tensor's own type; the contents of `own` are overwritten."""
    return own.narrow(dim, 0, _fold(own, dim, 1)).squeeze(dim)


def _fold(x: Tensor, dim: int, most: int) -> int:
    """Add the end of `x` along `dim` to its beginning until `most` elements contain the sum; return their number."""
    length = x.shape[dim]
    while length > most:
        half = (length + 1) // 2
        x.narrow(dim, 0, length - half).add_(x.narrow(dim, half, length - half))
        length = half
    return length
