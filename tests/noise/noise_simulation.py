"""Gradients with known mean and covariance, and the sums that a run measuring them would report."""

import math
from collections.abc import Iterable

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

from tuner.noise import Measurement, NoiseSums

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
