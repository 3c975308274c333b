"""Micro-batches: as the definition has it, at a cost that does not grow with the batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.study.micro_batch import default_micro_batch, legal_micro_batches


@given(st.lists(st.integers(1, 600), min_size=1, max_size=4))
def test_the_legal_ones_are_the_common_divisors_up_to_half_of_the_smallest_batch(sizes: list[int]) -> None:
    tried = [size for size in range(1, min(sizes) // 2 + 1) if all(batch % size == 0 for batch in sizes)]
    assert legal_micro_batches(sizes) == (tried or [1])


PRIME = 999_999_937


@pytest.mark.timeout(20)  # trying every size up to half of the batch takes minutes
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([500_000_000], 125_000_000),
        ([PRIME], 1),
        ([PRIME, 2 * PRIME], 1),
        ([10**9, 2 * 10**9, 5 * 10**9], 250_000_000),
        ([2 * PRIME, 4 * PRIME], PRIME),
    ],
)
def test_enormous_batches_are_split_at_once(sizes: list[int], expected: int) -> None:
    assert default_micro_batch(sizes) == expected
