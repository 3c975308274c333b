"""Eigenbases of stacked symmetric positive semi-definite matrices: computed once at the start, then updated by QR.

The start needs eigenvectors, once per trial: LAPACK on the host, matrix by matrix, regardless of the matrices' device
(on CUDA a batch is also a loop). From then on one step of orthogonal iteration keeps a slowly changing basis up to
date: Wang et al. 2024, https://arxiv.org/abs/2405.18144. A basis stays orthogonal to rounding, since each is the result
of a QR decomposition. Isolation: see matrix_product.py; a matrix with NaN or infinity gives NaN, only in its own place.
"""

import torch
from torch import Tensor

from tuner.optimizers.maths.matrix_product import aligned, identity, in_batches, multiply, norms, sum_by_halving
from tuner.optimizers.maths.matrix_root import finite_matrices

GRADE = 1e-3
"""Height, as a fraction of the norm, of the diagonal ramp that distinguishes the axes of a null space."""

RIDGE = 1e-6
"""The same for QR steps: the null space of the matrix is left unchanged."""


def eigenbasis(matrices: Tensor) -> Tensor:
    """Return the eigenvectors of A + GRADE ‖A‖ diag(1, ..., 1/m) as columns, largest eigenvalue first.

    Without the ramp, rounding would determine most of the basis of a low-rank first factor.

    Args:
        matrices: float32 or float64 [n, m, m]; not modified.
    """
    size = matrices.shape[1]
    padded = aligned(matrices, own=True)
    padded.div_(_sizes(padded))
    diagonal = padded.diagonal(dim1=1, dim2=2)
    diagonal[:, :size].add_(torch.linspace(GRADE, GRADE / size, size, dtype=padded.dtype, device=padded.device))
    diagonal[:, size:] = -1  # below all eigenvalues, so that padding comes last
    finite = finite_matrices(padded)
    safe = torch.where(finite, padded, identity(padded))
    vectors = torch.linalg.eigh(safe.cpu())[1].flip(2).to(padded.device)
    return torch.where(finite, vectors, torch.nan)[:, :size, :size]


def followed(matrices: Tensor, bases: Tensor) -> tuple[Tensor, Tensor]:
    """Move bases by one step of orthogonal iteration towards the matrices' eigenvectors.

    Args:
        matrices: float32 or float64 [n, m, m], e.g. (64, 256, 256); not modified.
        bases: orthogonal, [n, m, m].

    Returns:
        The new bases [n, m, m], and the order [n, m] of the old columns, by falling eigenvalue estimate, from which the
        new ones were computed.
    """
    count, size, _ = matrices.shape
    padded, old = aligned(matrices), aligned(bases)
    moved = multiply(padded / _sizes(padded), old).add_(old * RIDGE)
    estimates = sum_by_halving((old * moved)[:, :size, :size].mT.reshape(count * size, size)).reshape(count, size)
    order = estimates.argsort(dim=1, descending=True, stable=True)
    columns = moved[:, :, :size].gather(2, order[:, None, :].expand(-1, moved.shape[1], -1))
    return _orthonormal(columns, size), order


def _sizes(padded: Tensor) -> Tensor:
    """Return the norms of [n, M, M] as [n, 1, 1], 1 where they are 0; matrices of norm 1 have room for products."""
    sizes = norms(padded)
    return torch.where(sizes == 0, 1.0, sizes).reshape(-1, 1, 1)


def _orthonormal(columns: Tensor, size: int) -> Tensor:
    """Return the Q of [n, M, m], whose last rows are padding, as [n, m, m]."""
    square = columns.new_zeros(len(columns), columns.shape[1], columns.shape[1])
    square[:, :, :size] = columns
    square.diagonal(dim1=1, dim2=2)[:, size:] = 1
    finite = finite_matrices(square)
    safe = torch.where(finite, square, identity(square))
    result = in_batches(lambda part: torch.linalg.qr(part)[0], safe)
    return torch.where(finite, result, torch.nan)[:, :size, :size]
