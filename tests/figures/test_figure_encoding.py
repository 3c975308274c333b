"""Typed arrays and samples: what they keep, to the last bit."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from figure_inputs import make_trials
from hypothesis import given
from hypothesis import strategies as st

from api.figures.encode import decode, floats, integers
from api.figures.sample import of_total, stride, thin


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
def test_floats_keep_seven_digits_and_turn_infinity_into_a_gap(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        wanted = np.asarray(values, dtype=np.float64).astype(np.float32)
    wanted[~np.isfinite(wanted)] = np.nan
    assert np.array_equal(decode(floats(values)), wanted, equal_nan=True)


@given(st.lists(st.integers(min_value=0, max_value=2**53)))
def test_integers_are_exact(values: list[int]) -> None:
    encoded = integers(values)
    json.dumps(encoded, allow_nan=False)
    assert decode(encoded).tolist() == values


@pytest.mark.parametrize(("top", "dtype"), [(255, "u1"), (256, "u2"), (2**16, "u4"), (2**32, "f8")])
def test_integers_take_the_smallest_type(top: int, dtype: str) -> None:
    assert integers([0, top])["dtype"] == dtype


def test_two_axes_keep_their_shape() -> None:
    encoded = integers([[1, 2], [3, 4], [5, 6]])
    assert encoded["shape"] == "3, 2"
    assert decode(encoded).tolist() == [[1, 2], [3, 4], [5, 6]]


@given(st.integers(0, 300), st.integers(2, 50))
def test_a_stride_is_even_and_keeps_both_ends(count: int, limit: int) -> None:
    kept = stride(range(count), limit)
    assert len(kept) == min(count, limit)
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
    gaps = {b - a for a, b in pairwise(kept)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_thinning_keeps_the_best_and_the_order() -> None:
    ranked = sorted(make_trials(1000), key=lambda trial: trial.value if trial.value is not None else math.inf)
    kept = thin(ranked, 100)
    assert len(kept) == 100
    assert kept[:25] == ranked[:25]
    places = [ranked.index(trial) for trial in kept]
    assert places == sorted(places)


def test_nothing_is_said_when_everything_is_shown() -> None:
    assert of_total(7, 7, "trials") == ""
    assert of_total(2000, 12345, "trials") == "2,000 of 12,345 trials"
