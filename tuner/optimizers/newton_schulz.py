"""Orthogonalise many matrices at once by Newton-Schulz, the same bits whatever stands beside them.

A quintic polynomial of the matrix, applied five times, drives every singular value towards 1 and leaves the singular
vectors alone: five steps map sigma >= 0.01 (relative to the Frobenius norm) into 0.682-1.134, never exactly to 1.

Isolation. A BLAS picks its kernels by memory alignment, batch size and thread count, and so rounds differently. Here
every matrix is therefore copied, zero-padded to whole 64-byte rows, into fresh aligned memory (zeros stay zeros under
the iteration), and multiplied in batches whose size never decides the kernel: see `_whole_count`. Norms are sums by
halving, because torch.sum orders its terms by the batch's size. Within one program (device, threads, dtype, versions)
a matrix then gets the same bits alone, in any batch, at any row.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/: the steepest slope at 0 that stays bounded."""

STEPS = 5
NORM_FLOOR = 1e-7

_ALIGNMENT_BYTES = 64
_ALONE_ABOVE = {"cpu": 2**14, "cuda": 2**18}
"""Elements above which a matrix fills the device by itself and is multiplied alone."""
_CUDA_BATCH = 16


def newton_schulz(matrices: Tensor) -> Tensor:
    """Return for each matrix U S' V' with S' near the identity, where U S V' is its singular value decomposition.

    The zero matrix stays zero. Computed in the tensor's own type (torch.optim.Muon rounds to bfloat16 first).

    Args:
        matrices: float32 or float64 [n, m, k], e.g. (64, 256, 64); left as they are.
    """
    count, rows, columns = matrices.shape
    if rows > columns:
        return newton_schulz(matrices.mT).mT
    padded = _aligned(matrices)
    norm = _sum_by_halving(padded * padded).sqrt_().clamp_(min=NORM_FLOOR)
    padded.div_(norm.reshape(-1, 1, 1))
    result = torch.cat([_iterate(part) for part in torch.split(padded, _batch_size(padded))])
    return result[:count, :rows, :columns]


def _iterate(x: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _aligned(matrices: Tensor) -> Tensor:
    """Copy [n, m, k] to [N, M, K], rounded up with zeros so that rows are whole 64-byte lines and batches are whole."""
    count, rows, columns = matrices.shape
    line = _ALIGNMENT_BYTES // matrices.element_size()
    whole_rows, whole_columns = -(-rows // line) * line, -(-columns // line) * line
    padded = matrices.new_zeros(_whole_count(matrices, whole_rows * whole_columns), whole_rows, whole_columns)
    padded[:count, :rows, :columns] = matrices
    return padded


def _whole_count(matrices: Tensor, elements: int) -> int:
    """How many matrices to compute, so that the batch's size does not decide the kernel (padding ones are zero).

    MKL splits single matrices over threads when there are fewer matrices than threads; cuBLAS chooses by batch size.
    """
    count, device = matrices.shape[0], matrices.device.type
    if elements > _ALONE_ABOVE.get(device, _ALONE_ABOVE["cuda"]):
        return count
    if device == "cpu":
        return max(count, torch.get_num_threads())
    return -(-count // _CUDA_BATCH) * _CUDA_BATCH


def _batch_size(padded: Tensor) -> int:
    """How many matrices go into one product: one if they are large, all on a CPU, a fixed number elsewhere."""
    device = padded.device.type
    if padded[0].numel() > _ALONE_ABOVE.get(device, _ALONE_ABOVE["cuda"]):
        return 1
    return padded.shape[0] if device == "cpu" else _CUDA_BATCH


def _sum_by_halving(x: Tensor) -> Tensor:
    """Sum [n, m, k] over all dims but 0 in an order that depends on m and k alone; returns [n]."""
    x = x.reshape(x.shape[0], -1)
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        paired = x[:, :half] + x[:, half : 2 * half]
        x = torch.cat([paired, x[:, 2 * half :]], dim=1) if x.shape[1] % 2 else paired
    return x[:, 0]
