"""Inverse roots of many symmetric positive semi-definite matrices at once.

On a CPU they are computed by eigendecomposition, matrix by matrix (LAPACK is about eight times as fast there as the
products below); elsewhere by matrix products alone, since a batched eigenvalue solver on CUDA is a loop over matrices.
Both give each matrix bits that do not depend on the others (see matrix_product.py), and NaN for one with NaN or
infinity.

By products: the coupled Newton iteration of Guo and Higham 2006, "A Schur-Newton method for the matrix pth root and its
inverse", https://doi.org/10.1137/050643374, with its two coefficients chosen for every step:

    Q ← a I - b M,   X ← X Q,   M ← M Qᵖ        from X = I, M = A / s, which keep M = Xᵖ A / s

Newton takes a = (p + 1) / p and b = 1 / p, which lifts small eigenvalues m of M by aᵖ < e per step. With l the smallest
eigenvalue, b / a = (1 - l^(1/p)) / (1 - l^(1 + 1/p)) makes m (a - b m)ᵖ equal at both ends of [l, 1]; a then sets its
largest value to 1. Near 1 that is Newton's step. l is bounded below by CUSHION, because otherwise the large eigenvalues
would drop so far that rounding matters. The coefficients depend only on p and FLOOR, never on a matrix.

Accuracy of both methods, relative to the root's largest entry, for condition c and unit roundoff u (2^-53, 2^-24):
about (c + 100) · u. Eigenvalues below FLOOR of the Frobenius norm are treated as about FLOOR, so a singular matrix has
a root.
"""

from functools import cache, partial

import torch
from torch import Tensor

from tuner.optimizers import devices
from tuner.optimizers.maths.matrix_product import aligned, identity, in_batches, multiply, norms
from tuner.optimizers.maths.power import power

FLOOR = {torch.float32: 1e-7, torch.float64: 1e-14}
"""Smallest eigenvalue distinguished from 0, relative to the Frobenius norm."""

CUSHION = 0.1
_OF_ZERO = 1e-30
"""What the zero matrix's norm is taken for."""


def inverse_root(matrices: Tensor, root: int, ridge: Tensor) -> Tensor:
    """Return (A + ridge · ‖A‖ I)^(-1 / root) of every symmetric positive semi-definite A; ‖A‖ is Frobenius.

    Args:
        matrices: float32 or float64 [n, m, m], e.g. (64, 256, 256); not modified. The zero matrix is treated as 1e-30.
        root: 1 or more.
        ridge: float64 [n], at least 0.
    """
    size = matrices.shape[1]
    padded = aligned(matrices, own=True)
    norm = norms(padded).to(torch.float64)
    norm = torch.where(norm == 0, _OF_ZERO, norm)
    scale = norm * (1 + ridge)  # no less than the largest eigenvalue with the ridge
    padded.div_(scale.to(padded.dtype).reshape(-1, 1, 1))
    diagonal = padded.diagonal(dim1=1, dim2=2)
    diagonal[:, :size].add_((ridge / (1 + ridge)).to(padded.dtype).reshape(-1, 1))
    diagonal[:, size:] = 1
    solve = root_by_eigenvalues if devices.is_cpu(padded) else root_by_products
    result = solve(padded, root)[:, :size, :size]
    return result * power(scale[None], torch.full_like(scale, -1 / root))[0].to(result.dtype).reshape(-1, 1, 1)


def root_by_eigenvalues(padded: Tensor, root: int) -> Tensor:
    """Return A^(-1 / root) of aligned matrices [n, M, M] with eigenvalues in [0, 1]."""
    finite = finite_matrices(padded)
    values, vectors = torch.linalg.eigh(torch.where(finite, padded, identity(padded)))
    values = values.clamp_(min=FLOOR[padded.dtype]).to(torch.float64)
    lifted = power(values.reshape(1, -1), torch.full((values.numel(),), -1 / root, dtype=torch.float64))
    weighted = vectors * lifted.reshape(len(values), 1, -1).to(padded.dtype)
    return torch.where(finite, multiply(weighted, vectors.mT), torch.nan)


def finite_matrices(matrices: Tensor) -> Tensor:
    """Return [n, 1, 1], True where all of [n, m, k] is finite: one matrix of NaNs may make LAPACK fail."""
    return matrices.isfinite().flatten(1).all(1).reshape(-1, 1, 1)


def root_by_products(padded: Tensor, root: int) -> Tensor:
    """Return A^(-1 / root) of aligned matrices [n, M, M] with eigenvalues in [0, 1]."""
    return in_batches(partial(_iterate, root=root), padded)


@cache
def schedule(root: int, floor: float) -> tuple[tuple[float, float], ...]:
    """Return (a, b) of each step that takes eigenvalues from [floor, 1] to 1."""
    least, steps = floor, []
    while 1 - least > 1e-9:
        kept = max(least, CUSHION)
        ratio = (1 - kept ** (1 / root)) / (1 - kept ** (1 + 1 / root))
        a = (ratio * (root + 1)) ** (1 / root) * (root + 1) / root
        steps.append((a, a * ratio))
        least = min(m * (a * (1 - ratio * m)) ** root for m in (least, 1.0))
    return (*steps, ((root + 1) / root, 1 / root))


def _iterate(m: Tensor, root: int) -> Tensor:
    eye = identity(m)
    steps = schedule(root, FLOOR[m.dtype])
    x: Tensor | None = None
    for index, (a, b) in enumerate(steps):
        q = (eye * a) - (m * b)
        x = q if x is None else torch.bmm(x, q)
        if index + 1 < len(steps):
            m = torch.bmm(m, _integer_power(q, root))
    assert x is not None
    return (x + x.mT).mul_(0.5)


def _integer_power(q: Tensor, exponent: int) -> Tensor:
    """Compute q^exponent by repeated squaring."""
    if exponent == 1:
        return q
    half = _integer_power(q, exponent // 2)
    square = torch.bmm(half, half)
    return torch.bmm(square, q) if exponent % 2 else square
