"""The critical batch that one run predicts."""

import math

import numpy as np
import pytest
from noise_simulation import gaussian_norms, rows_of

from tuner.errors import InvalidInput
from tuner.noise import NoiseSums, critical_from_run, estimate_from_rows

MICRO_BATCH, COUNT = 16, 4
BATCH = MICRO_BATCH * COUNT
SPECTRUM = np.full(100, 4.0)


def exact_rows(noise_scale: np.ndarray, steps_per_row: int = 1) -> list[NoiseSums]:
    """Rows whose S and Q are the truth itself, |G| = 1."""
    small, big = 1 + noise_scale / MICRO_BATCH, 1 + noise_scale / BATCH
    rows = rows_of(small, big, MICRO_BATCH, COUNT)
    return [sum(rows[i : i + steps_per_row], NoiseSums()) for i in range(0, len(rows), steps_per_row)]


def test_growing_noise_is_weighed_by_progress() -> None:
    noise = np.geomspace(10, 10_000, 2_000)
    found = critical_from_run(BATCH, exact_rows(noise))
    assert found is not None
    steps_min = (1 / (1 + noise / BATCH)).sum()
    examples_min = (noise / (1 + noise / BATCH)).sum()
    # The windows are 20, and within each the noise still grows by 40 %.
    assert found.steps_min == pytest.approx(steps_min, rel=0.01)
    assert found.examples_min == pytest.approx(examples_min, rel=0.01)
    assert found.critical_batch == pytest.approx(examples_min / steps_min, rel=0.015)
    assert found.critical_batch < noise.mean() / 3, "a plain average over time would be far too high"
    assert estimate_from_rows(exact_rows(noise)).value == pytest.approx(noise.mean())


def test_constant_noise_gives_the_hyperbola_exactly() -> None:
    found = critical_from_run(BATCH, exact_rows(np.full(100, 256.0)))
    assert found is not None
    assert (found.critical_batch, found.low, found.high) == pytest.approx((256, 256, 256))
    assert found.steps_min == pytest.approx(100 / (1 + 256 / 64))
    assert found.steps_at(BATCH) == pytest.approx(100)
    assert found.steps_at(256) == pytest.approx(2 * found.steps_min)
    assert found.steps_at(1e12) == pytest.approx(found.steps_min)


@pytest.mark.parametrize(("steps", "group"), [(64, 1), (300, 1), (300, 25)])
def test_coverage_and_bias(steps: int, group: int) -> None:
    """|G|^2 falls by a factor 100, to where single windows no longer show any signal."""
    signal, repeats = np.geomspace(2, 0.2, steps), 40_000 // steps
    fraction = (1 / (1 + 400 / signal**2 / BATCH)).mean()
    rows = rows_of(
        *gaussian_norms(np.random.default_rng(20), np.tile(signal, repeats), SPECTRUM, MICRO_BATCH, COUNT),
        MICRO_BATCH,
        COUNT,
    )
    covered, ratios, negative = [], [], 0
    for start in range(0, len(rows), steps):
        run = rows[start : start + steps]
        found = critical_from_run(BATCH, [sum(run[i : i + group], NoiseSums()) for i in range(0, steps, group)])
        assert found is not None
        covered.append(found.low <= BATCH * (1 / fraction - 1) <= found.high)
        ratios.append(found.steps_min / steps / fraction)
        negative += sum(row.q for row in run[-20:]) < 0
    assert negative > 0, "some last windows must have a negative Q"
    assert np.mean(covered) >= 0.92
    assert abs(np.mean(ratios) - 1) < 4 * np.std(ratios) / repeats**0.5 + 0.01


@pytest.mark.parametrize("spectrum", [np.array([300.0, 50, 50]), np.full(100, 0.04)])
def test_error_and_bias_of_the_progress_fraction(spectrum: np.ndarray) -> None:
    """Low-rank noise, whose ratio would be biased by half without its correction, and weak noise."""
    signal, repeats = np.geomspace(2, 0.2, 64), 400
    fraction = (1 / (1 + spectrum.sum() / signal**2 / BATCH)).mean()
    norms = gaussian_norms(np.random.default_rng(22), np.tile(signal, repeats), spectrum, MICRO_BATCH, COUNT)
    rows = rows_of(*norms, MICRO_BATCH, COUNT)
    runs = [critical_from_run(BATCH, rows[i : i + 64]) for i in range(0, len(rows), 64)]
    found = np.array([run.steps_min / 64 for run in runs if run is not None])
    half = np.array([1 / (1 + run.low / BATCH) for run in runs if run is not None]) - found
    assert abs(found.mean() - fraction) < 4 * found.std() / repeats**0.5 + 0.005
    covered = [run.low <= BATCH * (1 / fraction - 1) <= run.high for run in runs if run is not None]
    assert np.mean(covered) >= 0.91
    # Student's quantile is about 2.05 here, larger where few windows rule.
    plausible = (found > -1) & (half + found < 0.999)
    assert plausible.mean() > 0.7
    assert np.median(half[plausible]) / found.std() == pytest.approx(2.1, rel=0.15)


def test_no_signal_gives_a_lower_bound_only() -> None:
    rows = rows_of(
        *gaussian_norms(np.random.default_rng(21), np.full(100, 1e-3), SPECTRUM, MICRO_BATCH, COUNT), MICRO_BATCH, COUNT
    )
    found = critical_from_run(BATCH, rows)
    assert found is not None
    assert not found.bounded and found.high == math.inf
    assert BATCH < found.low < math.inf


def test_certainly_no_progress_cannot_be_and_bounds_nothing() -> None:
    found = critical_from_run(BATCH, rows_of([10.0] * 40, [1.0] * 40, MICRO_BATCH, COUNT))
    assert found is not None
    assert found.steps_min < 0
    assert (found.critical_batch, found.low, found.high, found.bounded) == (math.inf, 0, math.inf, False)


def test_no_noise_needs_no_batch() -> None:
    found = critical_from_run(BATCH, exact_rows(np.zeros(50)))
    assert found is not None
    assert (found.critical_batch, found.low, found.high, found.bounded) == (0, 0, 0, True)
    assert found.steps_min == 50


def test_finite_set_correction_is_applied() -> None:
    """With Q raised by S/N the noise scale 400 becomes 400 / (1 + 400/1000)."""
    found = critical_from_run(BATCH, exact_rows(np.full(64, 400.0)), dataset_size=1000)
    assert found is not None
    assert found.critical_batch == pytest.approx(400 / 1.4)


def test_too_little_data_gives_nothing() -> None:
    assert critical_from_run(BATCH, []) is None
    assert critical_from_run(BATCH, exact_rows(np.full(2, 10.0))) is None
    assert critical_from_run(BATCH, [NoiseSums(10)] * 20) is None, "all gradients zero"


def test_refusals() -> None:
    for arguments, field in (((0, []), "batch_size"), ((4, [], 1.5), "confidence"), ((4, [], 0.9, 1), "dataset_size")):
        with pytest.raises(InvalidInput, match=field):
            critical_from_run(*arguments)
