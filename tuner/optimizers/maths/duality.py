"""Norms of parameters and their duality maps: the direction of unit norm best aligned with a gradient.

Reference: Bernstein and Newhouse 2024, "Old optimizer, new norm: an anthology", https://arxiv.org/abs/2409.20325, and
"Modular duality in deep learning", https://arxiv.org/abs/2410.21265.

For a norm ‖·‖ with dual ‖g‖* = max { <g, d> : ‖d‖ <= 1 }, the duality map d(g) attains it: <g, d(g)> = ‖g‖* and
‖d(g)‖ = 1. Steepest descent under the norm steps by -lr · ‖g‖* · d(g); without the factor ‖g‖* it is the step of Muon,
sign descent and conditional gradients.

    norm            of a matrix [m, k]             dual                          duality map
    spectral        largest singular value         sum of singular values        U V' of g = U S V'
    sign            largest |element|              sum of |elements|             sign(g)
    frobenius       root of the sum of squares     the same                      g / ‖g‖
    row_rms         largest RMS of a row           √k · sum of row lengths       √k · row / ‖row‖
    column_rms      largest RMS of a column        √m · sum of column lengths    √m · column / ‖column‖
    rms_to_rms      √(k/m) · spectral              √(m/k) · dual spectral        √(m/k) · U V'
    embedding       row_rms: an index (a one-hot row, of ℓ1 norm 1) picks a row, measured by its RMS

A zero matrix, row or column maps to zero. U V' is exact to rounding for singular values above 1e-6 of the Frobenius
norm (see newton_schulz.polar). All functions take stacks [n, m, k], never reduce over trials and return [n] or [n, m,
k]; a matrix with NaN gives NaN only in its own place. The norms are for information: no step of a rule needs them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.optimizers.maths.matrix_product import norms, sum_by_halving
from tuner.optimizers.maths.matrix_root import finite_matrices
from tuner.optimizers.maths.newton_schulz import polar
from tuner.optimizers.tensors import Tensors, sign


@dataclass(frozen=True)
class Norm:
    """A norm of stacked matrices [n, m, k], its dual, and its duality map."""

    name: str
    norm: Callable[[Tensor], Tensor]
    dual_norm: Callable[[Tensor], Tensor]
    dual_map: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModularNorm:
    """The norm of a whole model: max over layers of ‖W‖ / mass, so that a step of unit norm gives each layer its mass.

    Reference: Large et al. 2024, "Scalable optimization in the modular norm", https://arxiv.org/abs/2405.14813. Its
    dual is the sum over layers of mass · ‖g‖*, and its duality map gives each layer mass · d(g).
    """

    norms: Mapping[str, Norm]
    """Layer -> its norm."""
    masses: Mapping[str, float]
    """Layer -> its share of a step, above 0."""

    def norm(self, weights: Tensors) -> Tensor:
        """Return [n] of layers [n, m, k]."""
        own = [norm.norm(weights[name]) / self.masses[name] for name, norm in self.norms.items()]
        return torch.stack(own).amax(0)

    def dual_norm(self, grads: Tensors) -> Tensor:
        """Return [n] of layers [n, m, k]."""
        own = [norm.dual_norm(grads[name]) * self.masses[name] for name, norm in self.norms.items()]
        return torch.stack(own).sum(0)

    def dual_map(self, grads: Tensors) -> Tensors:
        """Return a direction [n, m, k] for every layer."""
        return {name: norm.dual_map(grads[name]) * self.masses[name] for name, norm in self.norms.items()}


def pairing(grads: Tensor, directions: Tensor) -> Tensor:
    """Return <g, d>, [n], of [n, ...]: the dual norm of g where d is its duality map."""
    return sum_by_halving(grads * directions)


def _singular_values(x: Tensor) -> Tensor:
    finite = finite_matrices(x)
    values = torch.linalg.svdvals(torch.where(finite, x, torch.zeros_like(x)))
    return torch.where(finite[:, :, 0], values, torch.nan)


def _spectral_norm(x: Tensor) -> Tensor:
    return _singular_values(x).amax(1)


def _nuclear_norm(x: Tensor) -> Tensor:
    return _singular_values(x).sum(1)


def _rms_scale(x: Tensor) -> float:
    """Return √(m / k)."""
    return math.sqrt(x.shape[1] / x.shape[2])


def _row_lengths(x: Tensor) -> Tensor:
    """Return the Euclidean lengths [n, m] of the rows of [n, m, k]."""
    return norms(x.reshape(-1, x.shape[2])).reshape(x.shape[:2])


def _unit(x: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """Return scale · x / lengths, and zero where a length is 0; lengths [n, 1 or m, 1 or k]."""
    return torch.where(lengths == 0, torch.zeros_like(x), x * scale / lengths)


def _row_map(x: Tensor) -> Tensor:
    return _unit(x, _row_lengths(x)[:, :, None], math.sqrt(x.shape[2]))


def _frobenius_map(x: Tensor) -> Tensor:
    return _unit(x, norms(x).reshape(-1, 1, 1), 1.0)


def _row_norm(x: Tensor) -> Tensor:
    return _row_lengths(x).amax(1) / math.sqrt(x.shape[2])


def _row_dual_norm(x: Tensor) -> Tensor:
    return sum_by_halving(_row_lengths(x)) * math.sqrt(x.shape[2])


NORMS: dict[str, Norm] = {
    norm.name: norm
    for norm in (
        Norm("spectral", _spectral_norm, _nuclear_norm, polar),
        Norm("sign", lambda x: x.abs().flatten(1).amax(1), lambda x: sum_by_halving(x.abs()), sign),
        Norm("frobenius", norms, norms, _frobenius_map),
        Norm("row_rms", _row_norm, _row_dual_norm, _row_map),
        Norm("column_rms", lambda x: _row_norm(x.mT), lambda x: _row_dual_norm(x.mT), lambda x: _row_map(x.mT).mT),
        Norm(
            "rms_to_rms",
            lambda x: _spectral_norm(x) / _rms_scale(x),
            lambda x: _nuclear_norm(x) * _rms_scale(x),
            lambda x: polar(x) * _rms_scale(x),
        ),
        Norm("embedding", _row_norm, _row_dual_norm, _row_map),
    )
}
"""The norms by name; see the table above."""
