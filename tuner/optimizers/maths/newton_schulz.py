"""Orthogonalise many matrices at once by Newton-Schulz, with bits that do not depend on the other matrices.

An odd polynomial of the matrix, applied a few times, drives every singular value towards 1 and leaves the singular
vectors unchanged. Each coefficient set trades the slope at 0 (how fast small singular values rise) against how close to
1 all of them end; the bands of five steps, for singular values relative to the Frobenius norm:

    set             from 1e-2 on     from 5e-3 on     from 1e-3 on
    original        0.682-1.134      0.682-1.154      0.470-1.202      never converges to 1
    dion            0.978-1.032      0.978-1.112      0.475-1.145
    polar_express   0.859-1.141      0.859-1.141      0.847-1.141
    cubic           0.075-1.000      0.037-1.000      0.007-1.000      converges: 25 steps are exact from 1e-3 on

Isolation: as in matrix_product.py; the whole iteration of a matrix runs in one batch.
"""

from functools import partial

import torch
from torch import Tensor

from tuner.optimizers.maths.matrix_product import aligned, in_batches, norms

Triple = tuple[float, float, float]
"""(a, b, c) of x ← a x + b x³ + c x⁵."""

ORIGINAL: Triple = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/: the steepest slope at 0 that remains bounded."""

# Amsel et al. 2025, https://arxiv.org/abs/2505.16932: minimax-optimal step by step, with a safety of 2e-2
_POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)

COEFFICIENTS: dict[str, tuple[Triple, ...]] = {
    "original": (ORIGINAL,),
    # modded-nanogpt's five triples, found by gradient descent; the preset "dion" of other libraries
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": _POLAR_EXPRESS,
    "cubic": ((1.5, -0.5, 0.0),),  # Björck and Bowie 1971, https://doi.org/10.1137/0708036
    "exact": (*_POLAR_EXPRESS, (1.875, -1.25, 0.375)),  # then the quintic that is flat at 1 to third order
}
"""Set -> one triple per step, the last one repeated."""

SAFETY = {"polar_express": 1.02, "exact": 1.02}
"""Set -> extra factor, besides its norm, by which a matrix is divided first."""

STEPS = 5
NORM_FLOOR = 1e-7


def newton_schulz(
    matrices: Tensor,
    coefficients: str | Triple = "original",
    steps: int = STEPS,
    dtype: torch.dtype | None = None,
    floor: float = NORM_FLOOR,
    together: bool = False,
) -> Tensor:
    """Return for each matrix U S' V' with S' near the identity, where U S V' is its singular value decomposition.

    The zero matrix stays zero.

    Args:
        matrices: float32 or float64 [n, m, k], e.g. (64, 256, 64); not modified.
        coefficients: a name in `COEFFICIENTS`, or a custom triple.
        steps: number of steps, at least 0.
        dtype: of the products, the matrices' own by default. bfloat16, as in torch.optim.Muon, is several times as fast
            where the device multiplies it in hardware; the bands widen by 0.01.
        floor: what smaller norms are taken for: matrices far below it stay small (as with torch.optim.Muon's eps).
        together: multiply large matrices as one batch too, which threads share better: without the isolation.
    """
    _, rows, columns = matrices.shape
    if isinstance(coefficients, str):
        triples, safety = COEFFICIENTS[coefficients], SAFETY.get(coefficients, 1.0)
    else:
        triples, safety = (coefficients,), 1.0
    padded = aligned(matrices)
    padded = padded / (norms(padded) * safety).clamp_(min=floor).reshape(-1, 1, 1)
    if dtype is not None:
        padded = aligned(padded.to(dtype))
    iterate = partial(_iterate, triples=triples, steps=steps, tall=rows > columns)
    result = iterate(padded) if together else in_batches(iterate, padded)
    return result[:, :rows, :columns].to(matrices.dtype)


def polar(matrices: Tensor) -> Tensor:
    """Return U V' of each matrix [n, m, k], exact to rounding for singular values above 1e-6 of the norm.

    Smaller ones end between 0 and 1, as do those of a rank-deficient matrix; the zero matrix stays zero.
    """
    return newton_schulz(matrices, "exact", 20, floor=torch.finfo(matrices.dtype).tiny)


def _iterate(x: Tensor, triples: tuple[Triple, ...], steps: int, tall: bool) -> Tensor:
    """Apply the polynomials, using the smaller of x x' and x' x."""
    for step in range(steps):
        a, b, c = triples[min(step, len(triples) - 1)]
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else gram * b
        x = torch.baddbmm(x, x, polynomial, beta=a) if tall else torch.baddbmm(x, polynomial, x, beta=a)
    return x
