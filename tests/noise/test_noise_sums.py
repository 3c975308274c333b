"""Sums over steps: formulas, addition, refusals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_simulation import quick

from tuner.errors import InvalidInput
from tuner.noise import NoiseSums
from tuner.noise.sums import total

norm = st.floats(0, 1e6)
steps = st.builds(NoiseSums.of_step, small=norm, big=norm, micro_batch=st.integers(1, 64), count=st.integers(2, 16))


def test_worked_example() -> None:
    row = NoiseSums.of_step(4.1e-2, 2.80e-3, 32, 16)
    assert row.s / row.q == pytest.approx(5147, rel=1e-3)
    assert row.values == pytest.approx((1, row.s, row.q, row.s**2, row.q**2, row.s * row.q))


def test_two_micro_batches_give_the_dot_product() -> None:
    x, y, b = (0.5, -2.0), (1.5, 1.0), 3
    small = (x[0] ** 2 + x[1] ** 2 + y[0] ** 2 + y[1] ** 2) / 2
    big = ((x[0] + y[0]) / 2) ** 2 + ((x[1] + y[1]) / 2) ** 2
    row = NoiseSums.of_step(small, big, b, 2)
    assert row.q == pytest.approx(x[0] * y[0] + x[1] * y[1])
    assert row.s == pytest.approx(b * ((x[0] - y[0]) ** 2 + (x[1] - y[1]) ** 2) / 2)


@quick
@given(steps, steps, steps)
def test_addition(a: NoiseSums, b: NoiseSums, c: NoiseSums) -> None:
    assert (a + b).values == (b + a).values
    assert ((a + b) + c).values == pytest.approx((a + (b + c)).values, rel=1e-9, abs=1e-3)
    assert (a + NoiseSums()).values == a.values
    assert total([a, b, c]).n == 3


@quick
@given(steps)
def test_second_moments_bound_the_mixed_one(a: NoiseSums) -> None:
    assert a.sq**2 <= a.ss * a.qq * (1 + 1e-9) + 1e-300


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ((math.nan, 1.0, 4, 2), ["small"]),
        ((1.0, math.inf, 4, 2), ["big"]),
        ((-1.0, 1.0, 4, 2), ["small"]),
        ((1.0, 1.0, 0, 2), ["micro_batch"]),
        ((1.0, 1.0, 4, 1), ["count"]),
        ((1.0, 1.0, 2.5, 2), ["micro_batch"]),
        ((math.nan, -1.0, 0, 1), ["small", "big", "micro_batch", "count"]),
    ],
)
def test_refusals_name_every_fault(arguments: tuple[float, float, int, int], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        NoiseSums.of_step(*arguments)
    assert [fault.field for fault in caught.value.faults] == fields
    assert all("allowed is" in fault.message for fault in caught.value.faults)


def test_non_finite_and_negative_sums_are_refused() -> None:
    for bad in ({"s": math.nan}, {"qq": math.inf}, {"n": -1}, {"ss": -1.0}):
        with pytest.raises(InvalidInput, match=next(iter(bad))):
            NoiseSums(**{"n": 1, **bad})
    with pytest.raises(InvalidInput, match="ss"):
        NoiseSums.of_step(1e200, 0.0, 4, 4)
