"""Examples drawn by weight: as often as they should be, and the same whatever the micro-batch, slot and neighbours."""

from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from input_kinds import EXAMPLES, task_of

from tuner.engine import Stack, TrialSpec
from tuner.engine.data_order import Orders, take_each
from tuner.engine.seeds import derive
from tuner.errors import InvalidInput
from tuner.workloads import Task

WEIGHTS = np.array([0.0, 3.0, 0.5, 0.0, 1.5, 0.0])


def order(seed: int) -> Any:
    return Orders(len(WEIGHTS), WEIGHTS).of(seed)


def literally(seed: int, position: int) -> int:
    """SplitMix64 and a search, in Python's own whole numbers."""
    state = (derive(seed, "weighted draws") + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    state ^= state >> 31
    ends = list(accumulate(WEIGHTS.tolist()))
    return bisect_right(ends, (state >> 11) / 2**53 * ends[-1])


def test_draws_are_those_of_a_literal_computation_from_any_position() -> None:
    whole = order(7).take(0, 500)
    assert whole.tolist() == [literally(7, position) for position in range(500)]
    assert order(7).take(123, 50).tolist() == whole[123:173].tolist()
    together = take_each([order(7), order(8)], [400, 10], 60)
    assert together.tolist() == [whole[400:460].tolist(), order(8).take(10, 60).tolist()]
    assert order(7).take(10**15, 3).tolist() == [literally(7, 10**15 + place) for place in range(3)]


def test_examples_are_drawn_as_often_as_their_weights_say() -> None:
    """Within five standard deviations, for every seed by itself."""
    for seed in range(4):
        counts = np.bincount(order(seed).take(0, 60_000), minlength=6)
        expected = 60_000 * WEIGHTS / WEIGHTS.sum()
        assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all(), counts


def course(task: Task, micro_batch: int, *others: TrialSpec, name: str = "adamw") -> list[Any]:
    watched = spec(100, name, lr=3e-3, batch_size=8, examples=96, rungs=(40,), report_every=8)
    stack = Stack(task, width=3, micro_batch=micro_batch)
    rows, _ = run_until_idle(stack, [*others, watched])
    stack.close()
    return [(row.step, row.metrics) for row in rows[100]]


def weighted(task: Task) -> Task:
    return replace(task, weights=torch.arange(task.examples) % 5)


@pytest.mark.parametrize("name", ["adamw", "gd_armijo"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "in memory"])
def test_slots_neighbours_and_the_place_of_the_data_change_no_bit(read: bool, name: str) -> None:
    """A line search looks at the examples of its step again."""
    task = weighted(task_of("tuple input"))
    expected = course(task, 4, name=name)
    where = weighted(task_of("Dataset")) if read else task
    others = spec(1, "sgd", lr=0.1, seed=5, examples=32), spec(2, "sgd", lr=0.1, seed=6)
    assert course(where, 4, *others, name=name) == expected
    assert course(task_of("tuple input"), 4, name=name) != expected


def test_training_sees_only_what_has_weight() -> None:
    """With all the weight on one example, training is training on it alone."""
    base = small_task()
    x, y = base.train
    one = replace(base, weights=[0.0] * 10 + [2.0] + [0.0] * (base.examples - 11))
    alone = replace(base, train=(x[10:11].repeat(4, 1), y[10:11].repeat(4)))
    assert course(one, 4) == course(alone, 4)


def test_a_snapshot_goes_on_with_the_same_draws() -> None:
    task = weighted(task_of("tuple input"))
    expected = course(task, 4)
    first, second = (Stack(task, width=2, micro_batch=4) for _ in range(2))
    slot = first.admit(spec(100, "adamw", lr=3e-3, batch_size=8, examples=96, rungs=(40,), report_every=8))
    assert slot is not None
    for _ in range(13):
        first.tick()
    second.restore(1, first.snapshot(slot))
    rows, _ = run_until_idle(second, [])
    assert [(row.step, row.metrics) for row in rows[100]][-2:] == expected[-2:]


def test_noise_is_not_corrected_for_a_finite_set_that_is_drawn_from_without_end() -> None:
    task = task_of("tuple input")
    assert Stack(task, width=1, micro_batch=4).program["train_examples"] == EXAMPLES
    assert "train_examples" not in Stack(weighted(task), width=1, micro_batch=4).program


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 5, r"weights: have the shape \[5\]; allowed is one for each of 97 examples"),
        ([[1.0]] * 97, "have the shape"),
        ([-1.0] + [1.0] * 96, "are from -1.0 to 1.0; allowed are finite ones >= 0"),
        ([float("nan")] * 97, "are from nan"),
        ([0.0] * 97, "not all zero"),
        (["a"] * 97, "are not numbers"),
    ],
)
def test_weights_that_say_nothing_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        replace(small_task(), weights=weights)
