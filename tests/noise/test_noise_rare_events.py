"""Noise that comes in few, large events: no upper end is claimed that the truth may lie above."""

from collections.abc import Callable

import numpy as np
import pytest
from noise_simulation import Array, norms, rows_of

from tuner.noise import NoiseSums, critical_from_run, estimate_from_rows

RUNS, STEPS, MICRO_BATCH, COUNT, RANK = 100, 200, 2, 4, 20
BATCH = MICRO_BATCH * COUNT
CONSTANT = np.full(STEPS, 100.0)


def one_in_a_hundred(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Sizes of the examples' noise, with a mean square of 1."""
    return 10.0 * (rng.random(shape) < 0.01)


def lognormal(width: float) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    return lambda rng, shape: np.exp(width * rng.standard_normal(shape) - width**2)


def gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.ones(shape)


def runs_of(sizes: Callable[[np.random.Generator, tuple[int, ...]], Array], scale: Array) -> list[list[NoiseSums]]:
    """Runs with |G| = 1 and this noise scale at each step, one row per step."""
    rng, runs = np.random.default_rng(71), []
    for _ in range(RUNS):
        size = sizes(rng, (STEPS, COUNT, MICRO_BATCH)) * np.sqrt(scale / RANK)[:, None, None]
        gradients = (rng.standard_normal((*size.shape, RANK)) * size[..., None]).mean(2)
        gradients[..., 0] += 1
        runs.append(rows_of(*norms(gradients), MICRO_BATCH, COUNT))
    return runs


@pytest.mark.parametrize("group", [1, 10])
@pytest.mark.parametrize(
    ("sizes", "scale", "rare"),
    [
        (one_in_a_hundred, CONSTANT, True),
        (one_in_a_hundred, np.geomspace(1000, 10, STEPS), True),
        (lognormal(1.5), CONSTANT, True),
        (lognormal(0.75), CONSTANT, False),
        (gaussian, CONSTANT, False),
    ],
)
def test_the_interval_holds_the_truth_or_has_no_upper_end(
    sizes: Callable[[np.random.Generator, tuple[int, ...]], Array], scale: Array, rare: bool, group: int
) -> None:
    truth = BATCH * (1 / (1 / (1 + scale / BATCH)).mean() - 1)
    held, flagged, bounded = [], [], []
    for run in runs_of(sizes, scale):
        rows = [sum(run[i : i + group], NoiseSums()) for i in range(0, STEPS, group)]
        found = critical_from_run(BATCH, rows)
        assert found is not None
        held.append(found.low <= truth <= found.high)
        bounded.append(found.bounded)
        flagged.append(estimate_from_rows(rows).heavy_tailed)
    assert np.mean(held) >= 0.9
    if rare:
        assert np.mean(flagged) >= 0.9 and np.mean(bounded) <= 0.1
    else:
        assert np.mean(flagged) <= 0.1 and np.mean(bounded) >= 0.5, "covering by saying nothing would be cheap"


def test_windows_without_an_event_do_not_read_as_no_noise() -> None:
    """All the noise is in every sixteenth step."""
    small = np.where(np.arange(320) % 16 == 7, 1 + 1600 / MICRO_BATCH, 1.0)
    big = np.where(np.arange(320) % 16 == 7, 1 + 1600 / BATCH, 1.0)
    found = critical_from_run(BATCH, rows_of(small, big, MICRO_BATCH, COUNT))
    assert found is not None and found.rare
    assert found.critical_batch == pytest.approx(100, rel=0.1)
