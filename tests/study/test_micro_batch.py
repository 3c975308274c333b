"""Micro-batches and groups: legal, near what each batch size could have, few, and cheap to find."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.study.micro_batch import APART, FULL, MOST_OPEN, MOST_PARTS, common_micro_batch, grouped, legal_micro_batches

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=6, unique=True)


@given(SIZES)
def test_the_legal_ones_are_the_common_divisors_up_to_half_of_the_smallest_batch(sizes: list[int]) -> None:
    tried = [size for size in range(1, min(sizes) // 2 + 1) if all(batch % size == 0 for batch in sizes)]
    assert legal_micro_batches(sizes) == (tried or [1])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([32], [(16, [32])]),
        ([8, 16, 32, 64, 128, 256], [(4, [8, 16]), (16, [32, 64]), (64, [128, 256])]),
        ([16, 32, 64, 128], [(8, [16, 32]), (32, [64, 128])]),
        ([24, 32, 48, 64], [(8, [24, 32, 48, 64])]),
        ([10, 20, 50, 100, 200, 500], [(5, [10, 20]), (25, [50, 100]), (100, [200, 500])]),
        ([7, 16, 32], [(1, [7]), (8, [16, 32])]),  # an odd size spoils only its own
        ([96, 100, 128], [(32, [96, 128]), (50, [100])]),
        ([37, 74], [(37, [37, 74])]),  # 37 cannot be split into a few parts
        ([1, 8], [(1, [1]), (4, [8])]),
        ([600, 1024], [(150, [600]), (256, [1024])]),  # four parts of 128 or more
    ],
)
def test_sizes_that_are_close_share_half_of_the_smallest(
    sizes: list[int], expected: list[tuple[int, list[int]]]
) -> None:
    assert [(group.micro_batch, list(group.batch_sizes)) for group in grouped(sizes)] == expected
    assert grouped(reversed(sizes)) == grouped(sizes)


@given(SIZES)
def test_every_size_is_in_one_group_and_a_multiple_of_its_micro_batch(sizes: list[int]) -> None:
    found = grouped(sizes)
    assert sorted(size for group in found for size in group.batch_sizes) == sorted(sizes)
    assert len({group.micro_batch for group in found}) == len(found)
    for group in found:
        assert all(size % group.micro_batch == 0 for size in group.batch_sizes)
        splits = any(group.batch_sizes[0] % parts == 0 for parts in range(2, MOST_PARTS + 1))
        assert 2 * group.micro_batch <= group.batch_sizes[0] or not splits or group.batch_sizes[0] == 1


@given(st.lists(st.integers(1, 12).map(lambda power: 2**power), min_size=1, unique=True))
def test_no_power_of_two_makes_many_more_ticks_than_it_needs(sizes: list[int]) -> None:
    for group in grouped(sizes):
        assert group.batch_sizes[-1] // group.micro_batch <= 2 * APART or group.micro_batch >= FULL


PRIME = 999_999_937


def test_any_number_of_sizes_of_any_magnitude_is_grouped_at_once_and_into_few_groups() -> None:
    start = time.process_time()
    for sizes, ratio in ((range(16, 65), 4), (range(1, 5001), 5000), (range(10**9 - 5000, 10**9), 1), ([PRIME], 1)):
        bound, reach = MOST_OPEN, APART
        while reach <= ratio:
            bound, reach = bound + MOST_OPEN, reach * APART
        assert len(grouped(sizes)) <= bound
    assert common_micro_batch([500_000_000]) == 125_000_000
    assert grouped([10**9, 2 * 10**9])[0].micro_batch == 250_000_000
    assert time.process_time() - start < 20, "trying every divisor takes minutes"
