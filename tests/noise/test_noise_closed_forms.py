"""The estimators against models whose noise scale is known in closed form, within four standard errors."""

from collections.abc import Callable

import numpy as np
import pytest
from noise_simulation import Array, gaussian_norms, norms, rows_of, split

from tuner.noise import NoiseSums, estimate_from_rows

COUNT = 4


def standard_errors_off(small: Array, big: Array, micro_batch: int, count: int, truth: float) -> float:
    """How far tr Sigma - truth * |G|^2 lies from its expectation, zero, in standard errors."""
    rows = rows_of(small, big, micro_batch, count)
    estimate = estimate_from_rows(rows, count=count)
    assert estimate.value == pytest.approx(estimate.trace / estimate.grad_sq)
    difference = np.array([row.s - truth * row.q for row in rows])
    error = difference.std(ddof=1) / len(rows) ** 0.5
    assert difference.mean() == pytest.approx(estimate.trace - truth * estimate.grad_sq, abs=1e-6 * error)
    return abs(float(difference.mean() / error))


def gaussian_mean(rng: np.random.Generator, n: int) -> Array:
    return np.full(100, 0.1) - 2 * rng.standard_normal((n, 100))


def quadratic_at_ones(rng: np.random.Generator, n: int) -> Array:
    curvature = 1 / np.arange(1, 101)
    return curvature * (1 - rng.standard_normal((n, 100)))


def quadratic_at_flat_end(rng: np.random.Generator, n: int) -> Array:
    curvature = 1 / np.arange(1, 101)
    return curvature * (10 * (np.arange(100) == 99) - rng.standard_normal((n, 100)))


def regression_isotropic(rng: np.random.Generator, n: int) -> Array:
    x = rng.standard_normal((n, 50))
    return x * (x @ np.full(50, 50**-0.5) - rng.standard_normal(n))[:, None]


def regression_anisotropic(rng: np.random.Generator, n: int) -> Array:
    x = rng.standard_normal((n, 50)) / np.sqrt(np.arange(1, 51))
    return x * (x @ np.full(50, 0.2) - 0.5 * rng.standard_normal(n))[:, None]


def logistic_at_zero(rng: np.random.Generator, n: int) -> Array:
    return -0.5 * (0.05 + rng.standard_normal((n, 100)))


@pytest.mark.parametrize(
    ("gradients", "truth", "micro_batch"),
    [
        (gaussian_mean, 400.0, 4),
        (quadratic_at_ones, 1.0, 4),
        (quadratic_at_flat_end, 163.498, 64),
        (regression_isotropic, 101.0, 4),
        (regression_anisotropic, 30.759, 4),
        (logistic_at_zero, 400.0, 4),
    ],
)
def test_known_noise_scale(
    gradients: Callable[[np.random.Generator, int], Array], truth: float, micro_batch: int
) -> None:
    small, big = split(gradients(np.random.default_rng(1), 60_000), micro_batch, COUNT)
    assert standard_errors_off(small, big, micro_batch, COUNT, truth) < 4
    assert standard_errors_off(small, big, micro_batch, COUNT, 1.5 * truth) > 4, "the test cannot tell 50 % apart"


def test_stationary_sgd() -> None:
    curvature, noise, lr, batch = np.array([1, 0.3, 0.1]), np.array([1, 2, 0.5]), 0.5, 8
    rng = np.random.default_rng(2)
    theta = np.zeros((40_000, 3))
    for _ in range(150):
        theta -= lr * (curvature * theta + rng.standard_normal(theta.shape) * np.sqrt(noise / batch))
    # Measured with a larger batch than trained with, for precision.
    micro = (curvature * theta)[:, None] + rng.standard_normal((40_000, 4, 3)) * np.sqrt(noise / 16)
    truth = batch * noise.sum() / (lr * noise * curvature / (2 - lr * curvature)).sum()
    assert truth == pytest.approx(55.08, abs=0.005)
    small, big = norms(micro)
    assert standard_errors_off(small, big, 16, 4, truth) < 4
    assert standard_errors_off(small, big, 16, 4, 67.9) > 4, "the small-lr formula must be told apart"


def test_two_gradients_exactly() -> None:
    outcomes = [(a, b) for a in (1.0, 3.0) for b in (1.0, 3.0)]
    rows = [NoiseSums.of_step((a * a + b * b) / 2, ((a + b) / 2) ** 2, 1, 2) for a, b in outcomes]
    estimate = estimate_from_rows(rows)
    assert (estimate.trace, estimate.grad_sq, estimate.value) == pytest.approx((1, 4, 0.25))
    assert np.mean([row.s / row.q for row in rows]) == pytest.approx(1 / 3), "a mean of ratios would be wrong"


def test_every_finite_set_is_estimated_without_bias() -> None:
    """All ordered draws of four from six examples, two micro-batches of two, enumerated."""
    from itertools import permutations

    examples = np.random.default_rng(3).standard_normal((6, 3)) + 0.5
    draws = examples[np.array(list(permutations(range(6), 4)))]
    small, big = norms(draws.reshape(-1, 2, 2, 3).mean(2))
    rows = rows_of(small, big, 2, 2)
    corrected, raw = estimate_from_rows(rows, dataset_size=6), estimate_from_rows(rows)
    trace = np.cov(examples.T, ddof=1).trace()
    grad_sq = (examples.mean(0) ** 2).sum()
    assert corrected.trace == pytest.approx(trace, rel=1e-12)
    assert corrected.grad_sq == pytest.approx(grad_sq, rel=1e-12)
    assert raw.grad_sq == pytest.approx(grad_sq - trace / 6, rel=1e-12)


def test_finite_set_correction_reaches_the_second_moments() -> None:
    """Correcting the sums must equal summing corrected steps."""
    rng = np.random.default_rng(4)
    small, big = gaussian_norms(rng, np.ones(40), np.ones(20), 4, 4)
    rows = rows_of(small, big, 4, 4)
    by_hand = [NoiseSums(1, r.s, q := r.q + r.s / 64, r.ss, q * q, r.s * q) for r in rows]
    for group in (1, 5):  # pairs of rows, and rows' own second moments
        joined = [sum(rows[i : i + group], NoiseSums()) for i in range(0, 40, group)]
        expected = [sum(by_hand[i : i + group], NoiseSums()) for i in range(0, 40, group)]
        corrected, wanted = estimate_from_rows(joined, dataset_size=64), estimate_from_rows(expected)
        assert (corrected.low, corrected.value, corrected.high) == pytest.approx(
            (wanted.low, wanted.value, wanted.high)
        )


def test_variances_of_the_estimators() -> None:
    spectrum = 40 / np.arange(1, 31)
    micro_batch, count, steps = 4, 5, 40_000
    rng = np.random.default_rng(5)
    rows = rows_of(*gaussian_norms(rng, np.full(steps, 1.5), spectrum, micro_batch, count), micro_batch, count)
    s, q = np.array([r.s for r in rows]), np.array([r.q for r in rows])
    batch, squares = micro_batch * count, float((spectrum**2).sum())
    signal = 1.5**2 * spectrum.mean()  # G' Sigma G
    assert s.mean() == pytest.approx(spectrum.sum(), rel=0.01)
    assert s.var() == pytest.approx(2 * squares / (count - 1), rel=0.05)
    expected = 4 * signal / batch + 2 * squares * count / (batch**2 * (count - 1))
    assert q.var() == pytest.approx(expected, rel=0.05)
    assert np.cov(s, q)[0, 1] == pytest.approx(-2 * squares / (batch * (count - 1)), rel=0.1)
    rank = estimate_from_rows(rows, count=count).effective_rank
    assert rank == pytest.approx(spectrum.sum() ** 2 / squares, rel=0.05)


def test_not_the_plug_in_estimate() -> None:
    """Taking |batch gradient|^2 for |G|^2 saturates at the batch in use: 55 instead of 400."""
    rng = np.random.default_rng(6)
    small, big = gaussian_norms(rng, np.ones(400), np.full(200, 2.0), 16, 4)
    estimate = estimate_from_rows(rows_of(small, big, 16, 4))
    assert estimate.trace / big.mean() == pytest.approx(55.2, rel=0.05)
    assert estimate.low < 400 < estimate.high
    assert estimate.value == pytest.approx(400, rel=0.15)


def test_more_micro_batches_at_the_same_batch_vary_less() -> None:
    per_example = gaussian_mean(np.random.default_rng(7), 2_000 * 16)
    two, four = (np.array([r.s for r in rows_of(*split(per_example, 16 // k, k), 16 // k, k)]) for k in (2, 4))
    assert two.mean() == pytest.approx(four.mean(), rel=0.02)
    assert two.var() / four.var() == pytest.approx(3, rel=0.15)


def test_layers_add_up_to_the_model_and_bracket_it() -> None:
    rng = np.random.default_rng(8)
    micro = 1 + rng.standard_normal((300, 4, 30)) * np.repeat([0.5, 1, 3], 10)
    layers = [rows_of(*norms(micro[:, :, i : i + 10]), 4, 4) for i in (0, 10, 20)]
    model = rows_of(*norms(micro), 4, 4)
    assert sum(row.s for layer in layers for row in layer) == pytest.approx(sum(row.s for row in model))
    values = [estimate_from_rows(layer).value for layer in layers]
    assert min(values) < estimate_from_rows(model).value < max(values)


def test_duplicated_examples_double_the_noise_scale_in_examples() -> None:
    small, big = gaussian_norms(np.random.default_rng(9), np.ones(50), np.ones(10), 4, 4)
    once, twice = estimate_from_rows(rows_of(small, big, 4, 4)), estimate_from_rows(rows_of(small, big, 8, 4))
    assert twice.value == pytest.approx(2 * once.value)
