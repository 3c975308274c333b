"""Gradients with known mean and covariance, and the sums that a run measuring them would report."""

import math
from collections.abc import Iterable

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

from tuner.noise import CriticalBatch, Measurement, NoiseSums

Array = NDArray[np.float64]

quick = settings(deadline=None, max_examples=60)
"""For property tests: no claim on time, which a shared machine would break."""


def rows_of(small: Iterable[float], big: Iterable[float], micro_batch: int, count: int) -> list[NoiseSums]:
    """One row per step."""
    return [NoiseSums.of_step(float(s), float(b), micro_batch, count) for s, b in zip(small, big, strict=True)]


def norms(micro_gradients: Array) -> tuple[Array, Array]:
    """Small and big [T] from micro-batch gradients [T, K, d]."""
    return (micro_gradients**2).sum(-1).mean(1), (micro_gradients.mean(1) ** 2).sum(-1)


def gaussian_norms(
    rng: np.random.Generator, signal: Array, spectrum: Array, micro_batch: int, count: int
) -> tuple[Array, Array]:
    """Small and big [T] of Gaussian gradients: `signal` [T] is |G| at each step, `spectrum` [d] the noise variances.

    G points along (1, ..., 1).
    """
    direction = np.full(len(spectrum), len(spectrum) ** -0.5)
    noise = rng.standard_normal((len(signal), count, len(spectrum))) * np.sqrt(spectrum / micro_batch)
    return norms(signal[:, None, None] * direction + noise)


def split(per_example: Array, micro_batch: int, count: int) -> tuple[Array, Array]:
    """Small and big [T] from per-example gradients [at least T * K * b, d]; an incomplete last batch is dropped."""
    used = len(per_example) // (micro_batch * count) * micro_batch * count
    return norms(per_example[:used].reshape(-1, count, micro_batch, per_example.shape[-1]).mean(2))


def measured(
    *,
    noise_scale: float = 400.0,
    lr: float = 0.1,
    value: float | None = 0.5,
    batch_size: int = 64,
    steps: int = 200,
    family: str = "sgd",
    completed: bool = True,
    dataset_size: int | None = None,
    number: int | None = 7,
    seed: int = 50,
) -> Measurement:
    """A trial with 100-dimensional noise of the given noise scale in examples; four micro-batches per step."""
    signal = np.full(steps, math.sqrt(100 / noise_scale))
    norms = gaussian_norms(np.random.default_rng(seed), signal, np.ones(100), batch_size // 4, 4)
    rows = tuple(rows_of(*norms, batch_size // 4, 4))
    return Measurement(batch_size, lr, family, value, completed, rows, batch_size // 4, dataset_size, number)


def isotropic_rows(
    rng: np.random.Generator, noise_scale: Array, steps: int, *, micro_batch: int, count: int, rank: int, per_row: int
) -> list[list[NoiseSums]]:
    """Runs [R] with Gaussian noise of equal variance in `rank` dimensions, |G|^2 = 1, and these noise scales [R].

    The norms are drawn from their own distributions, not from gradients. Each row sums `per_row` steps.
    """
    variance = np.asarray(noise_scale)[:, None] / rank / micro_batch
    shape = len(variance), steps
    within = variance * rng.chisquare(rank * (count - 1), shape)
    along = 1 + np.sqrt(variance / count) * rng.standard_normal(shape)
    big = along**2 + variance / count * rng.chisquare(rank - 1, shape)
    s, q = within / (count - 1) * micro_batch, big - within / count / (count - 1)
    columns = [values.reshape(len(s), -1, per_row).sum(-1).tolist() for values in (s, q, s * s, q * q, s * q)]
    return [[NoiseSums(per_row, *row) for row in zip(*run, strict=True)] for run in zip(*columns, strict=True)]


def constant_run(critical: float, batch_size: int = 64, error: float = 0.0, rare: bool = False) -> CriticalBatch:
    """A run whose fraction of full-batch progress is that of `critical`, known with a standard error."""
    fraction = 1 / (1 + critical / batch_size)
    ends = [batch_size * (1 / f - 1) if f > 0 else math.inf for f in (fraction + 2 * error, fraction - 2 * error)]
    bounded = math.isfinite(ends[1])
    return CriticalBatch(
        batch_size, 100, 100 * fraction, 0.0, critical, *ends, bounded, 0.95, error=error, dof=100, rare=rare
    )
