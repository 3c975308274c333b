"""The stream of examples: epochs are permutations, and how it is read does not change it."""

import numpy as np
import pytest

from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import derive


def test_every_epoch_is_another_permutation() -> None:
    stream = DataOrder(3, 11).take(0, 33).reshape(3, 11)
    assert (np.sort(stream, axis=1) == np.arange(11)).all()
    assert len({tuple(epoch) for epoch in stream.tolist()}) == 3


@pytest.mark.parametrize("size", [1, 4, 7, 25])
def test_how_it_is_read_does_not_change_it(size: int) -> None:
    whole = DataOrder(3, 11).take(0, 100)
    order = DataOrder(3, 11)
    assert (np.concatenate([order.take(i, size) for i in range(0, 100, size)])[:100] == whole).all()
    assert (order.take(5, 20) == whole[5:25]).all()


def test_seeds_and_purposes_are_told_apart() -> None:
    values = {derive(seed, purpose, n) for seed in (-1, 0, 1, 2**70) for purpose in ("a", "b") for n in range(3)}
    assert len(values) == 24
    assert all(0 <= value < 2**64 for value in values)
    assert derive(1, "a", 1) == derive(1, "a", 1)
    with pytest.raises(ValueError, match="allowed are 32"):
        derive(0, "x" * 33)
