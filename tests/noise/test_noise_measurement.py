"""What is refused as input to advice."""

import math
from dataclasses import replace

import pytest
from noise_simulation import measured

from tuner.errors import InvalidInput
from tuner.noise import Throughput, advise


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"micro_batch": 24}, "batch_size"),
        ({"batch_size": 8}, "batch_size"),
        ({"dataset_size": 1}, "dataset_size"),
    ],
)
def test_impossible_measurements_are_refused(changes: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(measured(steps=3), **changes)
    assert [fault.field for fault in caught.value.faults] == [field]


def test_other_refusals() -> None:
    with pytest.raises(
        InvalidInput, match=r"kind: is 'image'; allowed is one of classification, regression, language, other"
    ):
        advise([], kind="image")
    with pytest.raises(InvalidInput, match="goal"):
        advise([], goal="min")
    with pytest.raises(InvalidInput, match="confidence"):
        advise([], confidence=1.0)
    for arguments, field in (((-1.0, 1.0), "overhead_s"), ((0.0, 0.0), "seconds_per_example")):
        with pytest.raises(InvalidInput, match=field):
            Throughput(*arguments)
