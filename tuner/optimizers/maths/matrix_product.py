"""Products of stacked matrices, with bits that do not depend on the other matrices.

A BLAS chooses its kernels by memory alignment, batch size and thread count, and therefore rounds differently. Here
every matrix is zero-padded to whole 64-byte rows in the aligned memory of its own tensor (`aligned`), and is multiplied
in batches whose size never affects the kernel (`multiply`). Sums are pairwise, because in torch.sum the order of the
terms depends on the batch size. Within one program (device, threads, dtype, versions) a matrix then gives the same bits
alone, in any batch, at any row. Nothing here depends on values: non-finite values stay in their own matrix.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tuner.optimizers import devices

_ALIGNMENT_BYTES = 64
_ALONE_ABOVE = {"cpu": 2**14, "cuda": 2**18}
"""Number of elements above which a matrix alone fills the device and is multiplied alone."""
_CUDA_BATCH = 16


def threads() -> int:
    """Return the number of threads that a BLAS has."""
    return torch.get_num_threads()


def whole(size: int, like: Tensor) -> int:
    """Round a dimension up to whole 64-byte lines of like's type: 8 doubles, 16 floats."""
    line = _ALIGNMENT_BYTES // like.element_size()
    return -(-size // line) * line


def aligned(matrices: Tensor, own: bool = False) -> Tensor:
    """Return [n, m, k] as [n, M, K], rows and columns padded with zeros: a copy, unless it is aligned already.

    `own` forces a copy, for callers that will write into it.
    """
    count, rows, columns = matrices.shape
    shape = (count, whole(rows, matrices), whole(columns, matrices))
    if shape == matrices.shape and matrices.is_contiguous() and _starts_a_line(matrices):
        return matrices.clone() if own else matrices
    padded = matrices.new_zeros(shape)
    padded[:, :rows, :columns] = matrices
    return padded


def _starts_a_line(matrices: Tensor) -> bool:
    """Whether memory is aligned; a compiled program's own always is, and has no address before it runs."""
    return torch.compiler.is_compiling() or matrices.data_ptr() % _ALIGNMENT_BYTES == 0


def whole_count(matrices: Tensor) -> int:
    """Return how many matrices [n, M, K] to compute, so that the batch size does not affect the kernel.

    MKL splits single matrices over threads when there are fewer matrices than threads; cuBLAS chooses by batch size.
    """
    count = matrices.shape[0]
    if matrices[0].numel() > alone_above(matrices):
        return count
    if devices.is_cpu(matrices):
        return max(count, threads())
    return -(-count // _CUDA_BATCH) * _CUDA_BATCH


def in_batches(function: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """Apply a function of batches to [n, M, K]: large matrices one by one, otherwise all at once on a CPU, or a fixed
    number elsewhere.

    `n` is rounded up by `whole_count` with zero matrices; the results [n, ...] are cut to the actual number.
    """
    count, wanted = matrices.shape[0], whole_count(matrices)
    if wanted > count:
        matrices = torch.cat([matrices, matrices.new_zeros(wanted - count, *matrices.shape[1:])])
    size = 1 if matrices[0].numel() > alone_above(matrices) else wanted
    if size > 1 and not devices.is_cpu(matrices):
        size = _CUDA_BATCH
    if size >= wanted:
        return function(matrices)[:count]
    return torch.cat([function(part) for part in torch.split(matrices, size)])[:count]


def alone_above(like: Tensor) -> int:
    """Elements above which a matrix of like's device is multiplied alone."""
    return _ALONE_ABOVE["cpu" if devices.is_cpu(like) else "cuda"]


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the products of aligned matrices, e.g. (64, 32, 48) and (64, 48, 16); one may be transposed."""
    count = left.shape[0]
    largest = max(left[0].numel(), right[0].numel(), left.shape[1] * right.shape[2])
    if largest > alone_above(left):
        result = left.new_empty(count, left.shape[1], right.shape[2])
        for index in range(count):
            torch.mm(left[index], right[index], out=result[index])
        return result
    if devices.is_cpu(left):
        missing = max(0, threads() - count)
    else:
        missing = -count % _CUDA_BATCH
    if missing:
        left, right = _longer(left, missing), _longer(right, missing)
    if devices.is_cpu(left):
        return torch.bmm(left, right)[:count]
    parts = [
        torch.bmm(*pair) for pair in zip(torch.split(left, _CUDA_BATCH), torch.split(right, _CUDA_BATCH), strict=True)
    ]
    return torch.cat(parts)[:count] if len(parts) > 1 else parts[0][:count]


def _longer(matrices: Tensor, missing: int) -> Tensor:
    """Append zero matrices; a transposed view stays transposed, since a BLAS rounds transposed operands differently."""
    if matrices.stride(2) != 1:
        return _longer(matrices.mT, missing).mT
    longer = matrices.new_zeros(matrices.shape[0] + missing, *matrices.shape[1:])
    longer[: matrices.shape[0]] = matrices
    return longer


def identity(like: Tensor) -> Tensor:
    """Return the identity [m, m] of square matrices [n, m, m]."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def sum_by_halving(x: Tensor) -> Tensor:
    """Sum [n, ...] over all dims but 0 in an order that depends only on their sizes; returns [n]."""
    x = x.reshape(x.shape[0], -1)
    length = x.shape[1]
    if length > 1:
        odd, half = length % 2, length // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        x, length = (torch.cat([folded, x[:, 2 * half :]], dim=1) if odd else folded), half + odd
    while length > 1:
        half = length // 2
        x[:, :half].add_(x[:, length - half : length])  # the middle one of an odd number stays in place
        length -= half
    return x[:, 0]


def norms(x: Tensor) -> Tensor:
    """Return the Euclidean norm over all dims but 0, [n], of [n, ...]: large ones one by one, others by halving.

    Elements are divided by the largest before they are squared: squares of a factor, itself a square of gradients,
    leave the range of float32 at gradients of 1e10 and 1e-10.
    """
    flat = x.reshape(x.shape[0], -1)
    largest = largest_elements(flat)
    flat = flat / largest[:, None]
    if flat.shape[1] > alone_above(x):
        return torch.stack([torch.linalg.vector_norm(row) for row in flat]).mul_(largest)
    return sum_by_halving(flat.mul_(flat)).sqrt_().mul_(largest)


def largest_elements(x: Tensor) -> Tensor:
    """Return the largest absolute value over all dims but 0, [n], and 1 where it is 0 or NaN: safe to divide by."""
    largest = x.abs().flatten(1).amax(1)
    return torch.where(largest > 0, largest, 1.0)
