"""Intervals: coverage, unbounded cases, too little data, invariances."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from noise_simulation import gaussian_norms, isotropic_rows, quick, rows_of
from scipy import stats

from tuner.errors import InvalidInput
from tuner.noise import NoiseScale, NoiseSums, estimate_from_rows
from tuner.noise.fieller import fieller
from tuner.noise.strata import pool
from tuner.noise.student import t_quantile
from tuner.noise.sums import total

FLAT = np.full(200, 2.0)
STEEP = 400 / np.arange(1, 201) / (1 / np.arange(1, 201)).sum()


def joined(rows: list[NoiseSums], group: int) -> list[NoiseSums]:
    return [sum(rows[i : i + group], NoiseSums()) for i in range(0, len(rows), group)]


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 7, 32, 199, 1_999, 2_000, 50_000])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.995])
def test_t_quantile(probability: float, dof: int) -> None:
    assert t_quantile(probability, dof) == pytest.approx(stats.t.ppf(probability, dof), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("spectrum", "steps", "group", "drift"),
    [
        (FLAT, 64, 1, 0.26),
        (STEEP, 64, 1, 0.26),
        (STEEP, 256, 1, 1.8),  # |G|^2 falls by a factor 360
        (FLAT, 64, 8, 0.26),  # eight rows: their own second moments
        (STEEP, 128, 4, 0.26),
    ],
)
def test_coverage(spectrum: np.ndarray, steps: int, group: int, drift: float) -> None:
    rng = np.random.default_rng(10)
    signal = np.linspace(1 + drift / 2, 1 - drift / 2, steps)
    truth = 400 * steps / (signal**2).sum()
    repeats = min(250, 30_000 // steps)
    small, big = gaussian_norms(rng, np.tile(signal, repeats), spectrum, 16, 4)
    rows = rows_of(small, big, 16, 4)
    estimates = [estimate_from_rows(joined(rows[i : i + steps], group), count=4) for i in range(0, len(rows), steps)]
    assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.92
    # Covering by saying nothing would be cheap.
    assert np.mean([e.bounded for e in estimates]) >= 0.9
    assert np.median([e.high / e.low for e in estimates if e.bounded]) < 8


def test_half_confidence_covers_half() -> None:
    small, big = gaussian_norms(np.random.default_rng(11), np.ones(64 * 400), FLAT[:50], 16, 4)
    rows = rows_of(small, big, 16, 4)
    estimates = [estimate_from_rows(rows[i : i + 64], 0.5) for i in range(0, len(rows), 64)]
    assert np.mean([e.low <= 100 <= e.high for e in estimates]) == pytest.approx(0.5, abs=0.08)


finite = st.floats(0.001, 100) | st.floats(-100, -0.001) | st.just(0.0)


@quick
@given(s=st.floats(0.01, 100), q=finite, a=finite, b=finite, c=finite, t=st.floats(0, 13), r=st.floats(0, 1e4))
def test_fieller_is_the_set_it_should_be(s: float, q: float, a: float, b: float, c: float, t: float, r: float) -> None:
    v_ss, v_sq, v_qq = (a * a + b * b) / 100, (a * c) / 100, (c * c) / 100
    low, high, bounded = fieller(s, q, v_ss, v_sq, v_qq, t)
    assert 0 <= low <= high
    assert bounded == (q > 0 and q * q > t * t * v_qq)
    if bounded:
        assert low <= s / q * (1 + 1e-9) and s / q <= high * (1 + 1e-9)
        # The set itself, away from its ends; at v_qq close to q^2 / t^2 the ends are ill-conditioned.
        assume(q * q > 1.001 * t * t * v_qq + 1e-6)
        distance, width = (s - r * q) ** 2, t * t * (v_ss - 2 * r * v_sq + r * r * v_qq)
        assume(abs(distance - width) > 1e-6 * (distance + width) + 1e-9)
        assert (low <= r <= high) == (distance <= width)
    elif low > 0:
        q = max(q, 0.0)
        edge = (s - low * q) ** 2 - t * t * (v_ss - 2 * low * v_sq + low * low * v_qq)
        assert edge == pytest.approx(0, abs=1e-6 * (s * s + low * low * q * q + t * t * low * low * v_qq) + 1e-6)


def test_gradient_drowned_in_noise_gives_a_lower_bound_only() -> None:
    small, big = gaussian_norms(np.random.default_rng(12), np.full(64, 0.02), FLAT, 16, 4)
    estimate = estimate_from_rows(rows_of(small, big, 16, 4))
    assert not estimate.bounded and estimate.high == math.inf and estimate.enough
    assert 100 < estimate.low < 400 / 0.02**2
    assert estimate.describe().startswith("at least")


def test_negative_mean_of_q_has_no_value_but_a_bound() -> None:
    rows = rows_of([10.0, 11.0, 9.0] * 8, [1.0, 1.1, 0.9] * 8, 4, 4)
    estimate = estimate_from_rows(rows)
    assert estimate.grad_sq < 0
    assert (estimate.value, estimate.high, estimate.bounded) == (math.inf, math.inf, False)
    assert estimate.low > 0 and math.isinf(estimate.steps_for_20_percent)


def test_swapped_norms_do_not_turn_into_a_positive_scale() -> None:
    estimate = estimate_from_rows(rows_of([1.0, 1.1] * 10, [10.0, 10.5] * 10, 4, 4))
    assert estimate.value < 0
    assert (estimate.low, estimate.high) == (0, 0)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_below_three_steps_there_is_not_enough_data(steps: int) -> None:
    scale = NoiseScale()
    for _ in range(steps):
        scale.add(2.0, 1.0, 4, 4)
    estimate = scale.estimate()
    assert math.isnan(estimate.value) and not estimate.enough and not estimate.bounded
    assert (estimate.low, estimate.high, estimate.steps) == (0, math.inf, steps)
    assert estimate.describe() == f"not enough data ({steps} steps measured)"


def test_gradients_without_noise_and_gradients_of_zero() -> None:
    exact = estimate_from_rows(rows_of([4.0] * 5, [4.0] * 5, 4, 4))
    assert (exact.value, exact.low, exact.high, exact.bounded) == (0, 0, 0, True)
    assert not estimate_from_rows(rows_of([0.0] * 5, [0.0] * 5, 4, 4)).enough


def test_noise_scale_equals_its_rows() -> None:
    small, big = gaussian_norms(np.random.default_rng(13), np.ones(100), STEEP, 16, 4)
    scale = NoiseScale(confidence=0.9, dataset_size=5000)
    for s, b in zip(small, big, strict=True):
        scale.add(s, b, 16, 4)
    one, other = scale.estimate(), estimate_from_rows(rows_of(small, big, 16, 4), 0.9, 5000, count=4)
    assert one.effective_rank == pytest.approx(other.effective_rank)
    assert replace(one, effective_rank=0) == replace(other, effective_rank=0)
    assert all(type(value) in (float, int, bool) for value in vars(one).values()), "numpy types would break JSON"
    assert scale.estimate().describe().count("90%") == 1


def test_long_runs_are_kept_in_bounded_memory() -> None:
    small, big = gaussian_norms(np.random.default_rng(14), np.linspace(2, 1, 3_001), STEEP[:40], 16, 4)
    scale = NoiseScale()
    for s, b in zip(small, big, strict=True):
        scale.add(s, b, 16, 4)
    assert len(scale.rows) <= 512
    assert sum(row.n for row in scale.rows) == 3_001
    assert len({row.n for row in scale.rows[:-1]}) == 1
    kept, every = scale.estimate(), estimate_from_rows(rows_of(small, big, 16, 4))
    assert kept.value == pytest.approx(every.value)
    assert math.log(kept.high / kept.low) == pytest.approx(math.log(every.high / every.low), rel=0.15)


@quick
@given(factor=st.floats(1e-30, 1e30), seed=st.integers(0, 50))
def test_scaling_the_loss_changes_nothing(factor: float, seed: int) -> None:
    small, big = gaussian_norms(np.random.default_rng(seed), np.ones(20), STEEP[:10], 8, 4)
    one, other = (estimate_from_rows(rows_of(small * f, big * f, 8, 4), count=4) for f in (1.0, factor))
    for name in ("value", "low", "high", "effective_rank"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-6)
    assert other.trace == pytest.approx(one.trace * factor, rel=1e-9)


@quick
@given(seed=st.integers(0, 50))
def test_order_of_steps_changes_no_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rows_of(*gaussian_norms(rng, np.ones(30), STEEP[:10], 8, 4), 8, 4)
    shuffled = [rows[i] for i in rng.permutation(30)]
    assert estimate_from_rows(shuffled).value == pytest.approx(estimate_from_rows(rows).value, rel=1e-9)


def test_a_falling_gradient_is_not_mistaken_for_noise() -> None:
    """|G|^2 falls by 10^4 without any noise in S and Q: their sums are known exactly."""
    signal = np.geomspace(1, 1e-4, 400)
    estimate = estimate_from_rows(rows_of(signal + 3.0 / 4, signal + 3.0 / 16, 4, 4))
    assert estimate.value == pytest.approx(3 / signal.mean())
    assert estimate.bounded and estimate.high / estimate.low < 1.02


def test_steps_wanted_for_a_known_precision() -> None:
    small, big = gaussian_norms(np.random.default_rng(15), np.ones(4_000), FLAT, 16, 4)
    rows = rows_of(small, big, 16, 4)
    wanted = int(estimate_from_rows(rows[:400]).steps_for_20_percent)
    assert 20 < wanted < 2_000
    reached = estimate_from_rows(rows[:wanted])
    assert math.log(reached.high / reached.low) / 2 == pytest.approx(math.log(1.2), rel=0.35)


def test_one_block_with_most_of_the_noise_is_flagged() -> None:
    small, big = gaussian_norms(np.random.default_rng(16), np.ones(100), FLAT, 16, 4)
    assert not estimate_from_rows(rows_of(small, big, 16, 4)).heavy_tailed
    small[50] *= 100
    assert estimate_from_rows(rows_of(small, big, 16, 4)).heavy_tailed


@quick
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60), blocks=st.integers(1, 20))
def test_pooling_keeps_every_step(lengths: list[int], blocks: int) -> None:
    pooled = pool([NoiseSums(n, s=1.0 * i) for i, n in enumerate(lengths)], blocks)
    assert len(pooled) <= blocks
    assert sum(block.n for block in pooled) == sum(lengths)
    assert sum(block.s for block in pooled) == sum(i for i, n in enumerate(lengths) if n)


def test_rows_of_unequal_length_and_empty_ones() -> None:
    rng = np.random.default_rng(17)
    rows = rows_of(*gaussian_norms(rng, np.ones(90), STEEP[:20], 8, 4), 8, 4)
    uneven = [sum(rows[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2], NoiseSums()) for i in range(12)] + [NoiseSums()]
    one, other = estimate_from_rows(rows[:78]), estimate_from_rows(uneven)
    assert other.value == pytest.approx(one.value)
    assert other.low == pytest.approx(one.low, rel=0.3)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 1, 1, 20), (20, 1), (20, 20, 1), (20, 1, 20, 1)])
def test_single_steps_join_a_neighbour(lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(18)
    rows = rows_of(*gaussian_norms(rng, np.ones(sum(lengths)), STEEP[:20] / 10, 8, 4), 8, 4)
    ends = np.cumsum(lengths)
    grouped = [sum(rows[end - n : end], NoiseSums()) for end, n in zip(ends, lengths, strict=True)]
    estimate, every = estimate_from_rows(grouped), total(rows)
    assert estimate.value == pytest.approx(every.s / every.q)
    assert estimate.steps == sum(lengths)
    assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"confidence": 0.0}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": math.nan}, "confidence"),
        ({"dataset_size": 1}, "dataset_size"),
        ({"dataset_size": math.nan}, "dataset_size"),
    ],
)
def test_refusals(arguments: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        NoiseScale(**arguments)
    with pytest.raises(InvalidInput, match=field):
        estimate_from_rows([], **arguments)


def test_a_count_of_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="count"):
        estimate_from_rows([], count=1)


@pytest.mark.parametrize("noise_scale", [32.0, 320.0])
def test_two_parts_per_step_need_one_and_a_half_times_the_steps_of_four(noise_scale: float) -> None:
    """Why a micro-batch is half of a group's smallest batch: the variance is that of K / (K - 1)."""

    def squared_width(parts: int) -> float:
        shape = {"micro_batch": 32 // parts, "count": parts, "rank": 100, "per_row": 100}
        runs = isotropic_rows(np.random.default_rng(parts), np.full(200, noise_scale), 2000, **shape)
        found = [estimate_from_rows(rows) for rows in runs]
        assert all(one.bounded for one in found)
        return float(np.mean([math.log(one.high / one.low) ** 2 for one in found]))

    assert 1.25 < squared_width(2) / squared_width(4) < 1.75
