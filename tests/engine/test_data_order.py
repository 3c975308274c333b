"""The stream of examples: epochs are permutations, any as likely as another, and how it is read does not change it."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from tuner.engine.data_order import DataOrder, Ints, permute, take_each
from tuner.engine.seeds import derive

SIZES = [1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 17, 97, 255, 256, 257, 1437, 65_536, 65_537]
STREAM = [10, 6, 8, 5, 4, 0, 1, 2, 9, 7, 3, 0, 9, 3, 1, 6, 8, 2, 4, 10, 7, 5]
FAR = [1078156337100, 705030606458, 873079334045]


@pytest.mark.parametrize("examples", SIZES)
def test_every_epoch_is_another_permutation(examples: int) -> None:
    stream = DataOrder(3, examples).take(0, 3 * examples).reshape(3, examples)
    assert (np.sort(stream, axis=1) == np.arange(examples)).all()
    assert examples < 7 or len({tuple(epoch) for epoch in stream.tolist()}) == 3
    assert (DataOrder(4, examples).take(0, examples) != stream[0]).any() or examples < 7


@pytest.mark.parametrize("size", [1, 4, 7, 25])
def test_how_it_is_read_does_not_change_it(size: int) -> None:
    whole = DataOrder(3, 11).take(0, 100)
    order = DataOrder(3, 11)
    assert (np.concatenate([order.take(i, size) for i in range(0, 100, size)])[:100] == whole).all()
    assert (order.take(5, 20) == whole[5:25]).all()


@pytest.mark.parametrize("examples", [1, 5, 1437, 2**31 - 5, 2**31 + 5, 2**40])
def test_streams_read_together_are_those_read_alone(examples: int) -> None:
    """Many epochs in one stretch, parts of one, and data sets beyond 32 bits."""
    orders = [DataOrder(seed, examples) for seed in range(9)]
    starts = [0, 1, 7, 500, 999, examples - 1, 3 * examples - 2, 10**6, 2**41]
    together = take_each(orders, starts, 3000)
    assert together.min() >= 0 and together.max() < examples
    for order, start, found in zip(orders, starts, together, strict=True):
        assert (order.take(start + 41, 100) == found[41:141]).all()
    assert take_each([], [], 5).shape == (0, 5) and take_each(orders, starts, 0).shape == (9, 0)


def test_the_stream_never_changes() -> None:
    """Checkpoints hold a place in it: another stream means another format of theirs."""
    assert DataOrder(0, 11).take(0, 22).tolist() == STREAM
    assert DataOrder(2**70, 2**40).take(2**42 + 1, 3).tolist() == FAR


def permutations_of(examples: int, repeats: int, places: list[int]) -> Ints:
    """Where many permutations take some places, [repeats, places]."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, repeats), rng.integers(0, 2**32, repeats)
    place = np.tile(np.array(places, np.uint32), repeats)
    return permute(place, words, np.full(repeats, len(places)), examples).reshape(repeats, len(places))


@pytest.mark.parametrize("examples", [2, 3, 4, 5, 6])
def test_all_orders_of_few_examples_are_equally_likely(examples: int) -> None:
    repeats, orders = 40_000, math.factorial(examples)
    found = permutations_of(examples, repeats, list(range(examples)))
    counts = np.unique(found @ examples ** np.arange(examples), return_counts=True)[1]
    assert len(counts) == orders and stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("examples", [11, 97, 257, 1437])
def test_where_an_example_goes_is_uniform_and_says_nothing_of_its_neighbour(examples: int) -> None:
    found = permutations_of(examples, 20_000, [0, 1, examples // 2])
    for column in found.T:
        assert stats.chisquare(np.bincount(column, minlength=examples)).pvalue > 0.001
    apart = np.bincount((found[:, 1] - found[:, 0]) % examples, minlength=examples)
    assert apart[0] == 0 and stats.chisquare(apart[1:]).pvalue > 0.001


def test_neighbouring_examples_of_large_data_are_unrelated() -> None:
    """Within one epoch: rank correlation of neighbours, and how evenly any tenth of it covers the data."""
    stream = DataOrder(5, 1_280_000).take(0, 128_000)
    assert abs(np.corrcoef(stream[:-1], stream[1:])[0, 1]) < 4 / 128_000**0.5
    counts = np.histogram(stream, 64, (0, 1_280_000))[0]
    # Drawn without replacement, counts vary nine tenths as much as a multinomial's.
    assert stats.chi2.sf(float(((counts - 2000) ** 2 / 2000).sum()) / 0.9, 63) > 0.001


def test_an_order_of_many_examples_takes_no_memory() -> None:
    tracemalloc.start()
    orders = [DataOrder(seed, 1_280_000) for seed in range(64)]
    for order in orders:
        order.take(10**7, 512)
    held = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held[0] < 100_000 and held[1] < 1_000_000, "bytes; a permutation would be 10 million"


def test_seeds_and_purposes_are_told_apart() -> None:
    values = {derive(seed, purpose, n) for seed in (-1, 0, 1, 2**70) for purpose in ("a", "b") for n in range(3)}
    assert len(values) == 24
    assert all(0 <= value < 2**64 for value in values)
    assert derive(1, "a", 1) == derive(1, "a", 1)
    with pytest.raises(ValueError, match="allowed are 32"):
        derive(0, "x" * 33)
