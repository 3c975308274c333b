"""Data that augments itself: random numbers per trial, epoch and place, whatever reads it and whenever."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from numpy.typing import NDArray

from tuner.engine import Stack, TrialSpec
from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import example_seeds
from tuner.workloads import Task

EXAMPLES = 24


class Noisy:
    """Adds noise to its examples, and notes what it was asked for."""

    def __init__(self, values: NDArray[np.float32], level: float = 0.3) -> None:
        self.values, self.level = values, level
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        return self.values[index]

    def augmented(self, index: Any, seeds: Any) -> NDArray[np.float32]:
        self.asked += zip(index.tolist(), seeds.tolist(), strict=True)
        noise = np.stack([np.random.default_rng(seed).standard_normal(self.values.shape[1]) for seed in seeds])
        return self.values[index] + self.level * noise.astype(np.float32)


def noisy_task() -> Task:
    task = small_task(examples=EXAMPLES)
    x, y = task.train
    assert isinstance(x, torch.Tensor)
    return replace(task, train=(Noisy(x.numpy()), y))


def course(micro_batch: int, *trials: TrialSpec, task: Task | None = None) -> list[Any]:
    stack = Stack(task or noisy_task(), width=3, micro_batch=micro_batch)
    rows, ends = run_until_idle(stack, list(trials))
    stack.close()
    assert {end.outcome for end in ends.values()} == {"finished"}
    return [(row.step, row.metrics) for row in rows[1]]


@pytest.mark.parametrize("name", ["adamw", "gd_armijo"])
def test_a_trial_has_its_bits_in_any_slot_beside_any_neighbour(name: str) -> None:
    """A line search sees the same noise again within its step."""
    watched = spec(1, name, lr=0.02, batch_size=8, examples=96, rungs=(24,))
    others = spec(0, "sgd", lr=0.1, batch_size=8, examples=16, seed=3), spec(2, "sgd", lr=0.1, batch_size=4, seed=4)
    np.random.seed(1)
    expected = course(4, watched)
    np.random.seed(2)
    assert course(4, others[0], watched, others[1]) == expected


def test_every_epoch_and_trial_has_its_own_numbers_at_any_micro_batch() -> None:
    found = []
    for micro_batch in (2, 8):
        task = noisy_task()
        course(micro_batch, spec(1, "sgd", lr=0.1, batch_size=8, examples=72, seed=5), task=task)
        source = task.train[0]
        assert isinstance(source, Noisy)
        found.append(source.asked)
    expected = list(zip(DataOrder(5, EXAMPLES).take(0, 72).tolist(), example_seeds(5, 0, 72).tolist(), strict=True))
    assert len({seed for _, seed in expected}) == 72  # three epochs
    for asked in found:
        assert [pair for pair in asked if pair in set(expected)][:72] == expected
    assert not set(example_seeds(6, 0, 72).tolist()) & set(example_seeds(5, 0, 72).tolist())


def test_a_line_search_asks_for_the_numbers_of_its_own_step_again() -> None:
    task = noisy_task()
    stack = Stack(task, width=1, micro_batch=4)
    run_until_idle(stack, [spec(1, "gd_armijo", lr=0.02, batch_size=8, examples=48)])
    stack.close()
    source = task.train[0]
    assert isinstance(source, Noisy)
    ahead = 48 + 4 * 8  # ticks gathered and not used
    order, seeds = DataOrder(spec(1, "sgd").seed, EXAMPLES).take(0, ahead), example_seeds(0, 0, ahead)
    stream = set(zip(order.tolist(), seeds.tolist(), strict=True))
    assert set(source.asked) <= stream | {(0, 0)}  # the latter for a free slot
    assert len(source.asked) > ahead


def test_a_snapshot_goes_on_with_the_numbers_of_its_place() -> None:
    watched = spec(1, "momentum", lr=0.05, batch_size=8, examples=96, rungs=(24, 48))
    expected = course(4, watched)
    first, second = Stack(noisy_task(), width=2, micro_batch=4), Stack(noisy_task(), width=2, micro_batch=4)
    slot = first.admit(watched)
    assert slot is not None
    for _ in range(9):
        first.tick()
    second.admit(spec(0, "sgd", lr=0.1, batch_size=8, examples=96, seed=9))
    for _ in range(3):
        second.tick()
    second.restore(1, first.snapshot(slot))
    rows, _ = run_until_idle(second, [])
    assert [(row.step, row.metrics) for row in rows[1]][-2:] == expected[-2:]
    first.close()
    second.close()


def test_seeds_are_those_of_splitmix64_and_do_not_depend_on_where_reading_starts() -> None:
    """Known answers: the first numbers of SplitMix64 started at 1234567."""
    from tuner.engine import seeds

    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "derive", lambda seed, purpose: 1234567)
        assert example_seeds(0, 0, 3).tolist() == known
    assert example_seeds(7, 5, 3).tolist() == example_seeds(7, 0, 8).tolist()[5:]
