"""Data that is read tick by tick: the same order and bits as from memory, and faults that stay with their trial."""

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, small_task, spec

from tuner.engine import Stack
from tuner.engine.data_order import DataOrder
from tuner.engine.loader import AHEAD, LoadingFeed
from tuner.errors import InvalidInput
from tuner.workloads import Task

TRIALS = [
    spec(0, "adamw", lr=0.01, batch_size=4),
    spec(1, "sgd", lr=0.1, batch_size=16, examples=160),
    spec(2, "muon", lr=0.01, batch_size=8, examples=240),
    spec(3, "momentum", lr=0.05, batch_size=32, seed=7),
    spec(4, "sgd", lr=0.1, batch_size=4, examples=100, seed=3),
]


class Lazy:
    """Examples behind an index; notes who reads what, and fails on some."""

    def __init__(self, array: np.ndarray, broken: int | None = None) -> None:
        self.array, self.broken = array, broken
        self.reads: list[tuple[str, Any]] = []

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> np.ndarray:
        self.reads.append((threading.current_thread().name, np.array(index)))
        if self.broken is not None and (index == self.broken).any():
            raise OSError(f"example {self.broken} cannot be read")
        return self.array[index]


def on_disk(task: Task, folder: Path) -> Task:
    """The same data in files of other types: float64, big-endian; int64."""
    x, y = (item.numpy() for item in task.train if isinstance(item, torch.Tensor))
    files = []
    for name, values, kind in (("x", x, ">f8"), ("y", y, "<i8")):
        mapped = np.memmap(folder / name, kind, "w+", shape=values.shape)
        mapped[:] = values
        mapped.flush()
        files.append(np.memmap(folder / name, kind, "r", shape=values.shape))
    return replace(task, train=tuple(files))


@pytest.mark.parametrize(("path", "dtype"), [("eager", torch.float32), ("loop", torch.float64)])
def test_a_run_from_files_has_the_bits_of_one_from_memory(tmp_path: Path, path: str, dtype: torch.dtype) -> None:
    """Three slots, five trials of four batch sizes: slots change hands while ticks are gathered ahead."""
    task = small_task()
    runs = []
    for read in (task, on_disk(task, tmp_path), replace(task, resident=False)):
        stack = Stack(read, width=3, micro_batch=4, dtype=dtype, path=path)
        rows, ends = run_until_idle(stack, list(TRIALS))
        assert isinstance(stack._feed, LoadingFeed) == (read is not task)
        assert {end.outcome for end in ends.values()} == {"finished"}
        runs.append({key: [(row.step, row.metrics, row.noise) for row in trial] for key, trial in rows.items()})
        stack.close()
    assert runs[0] == runs[1] == runs[2]


def test_a_snapshot_goes_on_from_its_place_in_the_stream(tmp_path: Path) -> None:
    """Also into a stack that has been under way, whose next ticks were gathered for others."""
    task = small_task()
    straight, _ = run_until_idle(Stack(task, width=1, micro_batch=4), [spec(1, "adamw", lr=0.01)])
    first = Stack(on_disk(task, tmp_path), width=2, micro_batch=4)
    first.admit(spec(1, "adamw", lr=0.01))
    rows = [event for _ in range(41) for event in first.tick()]
    snapshot = first.snapshot(0)
    second = Stack(replace(task, resident=False), width=2, micro_batch=4)
    second.admit(spec(2, "sgd", lr=0.1, examples=10**6))
    for _ in range(3):
        second.tick()
    second.resume(snapshot)
    rest, _ = run_until_idle(second, [], until=1)
    seen = [row.metrics for row in [*first.say(), *rows, *rest[1]] if row.key == 1]  # type: ignore[union-attr]
    assert sorted(map(str, seen)) == sorted(str(row.metrics) for row in straight[1])


def test_the_next_ticks_are_gathered_ahead_in_another_thread() -> None:
    task = small_task()
    x, y = (item.numpy() for item in task.train if isinstance(item, torch.Tensor))
    lazy = Lazy(x)
    stack = Stack(replace(task, train=(lazy, y)), width=1, micro_batch=4)
    stack.admit(spec(1, "sgd", lr=0.1, examples=10**6))
    lazy.reads.clear()
    for _ in range(3):
        stack.tick()
    stack._feed._ticks[-1].jobs[-1].result()  # type: ignore[union-attr]
    assert {name.partition("_")[0] for name, _ in lazy.reads} == {"loader"}
    order = DataOrder(0, len(x)).take(0, 4 * (3 + AHEAD))
    assert np.concatenate([index for _, index in lazy.reads]).tolist() == order.tolist()


def test_a_fault_of_the_data_ends_its_own_trial(tmp_path: Path) -> None:
    """Trial 1 meets the broken example in its third tick; its neighbour, which comes to it later, ends well before."""
    task = small_task()
    x, y = (item.numpy() for item in task.train if isinstance(item, torch.Tensor))
    orders = [DataOrder(seed, len(x)).take(0, 40).tolist() for seed in range(50)]
    broken = orders[0][9]
    other = next(seed for seed in range(1, 50) if broken not in orders[seed])
    trials = [spec(1, "sgd", lr=0.1), spec(2, "sgd", lr=0.1, seed=other, examples=32)]
    stack = Stack(replace(task, train=(Lazy(x, broken), y)), width=2, micro_batch=4)
    rows, ends = run_until_idle(stack, trials)
    assert ends[1].outcome == "error" and f"OSError: example {broken} cannot be read" in str(ends[1].error)
    assert (ends[1].step, ends[1].examples) == (0, 0)
    alone, _ = run_until_idle(Stack(task, width=2, micro_batch=4), trials[1:])
    assert ends[2].outcome == "finished" and [r.metrics for r in rows[2]] == [r.metrics for r in alone[2]]
    later, ends = run_until_idle(stack, [spec(3, "sgd", lr=0.1, seed=other, examples=32)])
    assert ends[3].outcome == "finished" and [r.metrics for r in later[3]] == [r.metrics for r in alone[2]]


def test_the_thread_ends_with_the_stack() -> None:
    task = replace(small_task(), resident=False)
    for explicitly in (True, False):
        stack = Stack(task, width=1, micro_batch=4)
        stack.admit(spec(1, "sgd", lr=0.1))
        stack.tick()
        (thread,) = list(stack._feed._thread._threads)  # type: ignore[union-attr]
        assert thread.is_alive()
        if explicitly:
            stack.close()
        else:
            del stack
            gc.collect()
        thread.join(10)
        assert not thread.is_alive()


def test_what_is_no_data_is_refused() -> None:
    task = small_task()
    for wrong in ([1.0, 2.0], {0: 1}, "text", 3):
        with pytest.raises(InvalidInput, match="train"):
            replace(task, train=(wrong, wrong))
        with pytest.raises(InvalidInput, match="valid"):
            replace(task, valid=(wrong, wrong))

    class Short(Lazy):
        def __getitem__(self, index: Any) -> np.ndarray:
            return super().__getitem__(index[:1])

    y = task.train[1]
    with pytest.raises(InvalidInput, match="the training data gave"):
        Stack(replace(task, train=(Short(np.zeros((97, 7), np.float32)), y)), width=1, micro_batch=4)
