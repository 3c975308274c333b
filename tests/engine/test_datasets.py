"""Data sets that give one example at a time: bits as from memory, read once, faults that stay with their trial."""

import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, spec
from input_kinds import EXAMPLES, VALID, Pairs, Rows, Two, task_of, tensors
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from tuner.engine import Stack, TrialSpec, validation_data
from tuner.engine.data_order import DataOrder
from tuner.engine.feed import Feed
from tuner.engine.seeds import example_seeds
from tuner.errors import InvalidInput
from tuner.workloads import Task, processes
from tuner.workloads.processes import Processes
from tuner.workloads.sources import source_of

WATCHED = spec(100, "adamw", lr=3e-3, batch_size=8, examples=96, rungs=(40,), report_every=8)


def course(task: Task, *others: TrialSpec) -> list[Any]:
    stack = Stack(task, width=3, micro_batch=4)
    rows, ends = run_until_idle(stack, [*others, WATCHED])
    stack.close()
    assert ends[100].outcome == "finished", ends[100].error
    return [(row.step, row.metrics, row.noise) for row in rows[100]]


@pytest.mark.parametrize(
    ("read", "memory"),
    [
        ("Dataset", "tuple input"),
        ("DataLoader with processes", "tuple input"),
        ("rows", "the model's loss"),
    ],
)
def test_a_run_has_the_bits_of_one_from_memory(read: str, memory: str) -> None:
    assert course(task_of(read)) == course(task_of(memory))


def test_an_example_that_several_trials_want_is_read_once_and_for_all_its_parts() -> None:
    """Two trials with one seed see the same examples; the free slot gets the first one."""
    task = task_of("Dataset")
    data = task.train
    stack = Stack(task, width=3, micro_batch=4)
    for key in range(2):
        stack.admit(spec(key, "sgd", lr=0.1 * (key + 1), batch_size=8, examples=10**6))
    data.reads.clear()
    stack.tick()
    stack._feed._ticks[-1].jobs[-1].result()  # type: ignore[union-attr]
    stream = DataOrder(0, EXAMPLES).take(0, 20).reshape(5, 4).tolist()
    expected = [number for tick in stream for number in [*tick, *([0] if 0 not in tick else [])]]
    assert data.reads == expected
    stack.close()


class Deadly(Pairs):
    """Ends the process that reads it."""

    status = 3

    def __getitem__(self, number: int) -> Any:
        if number == self.broken:
            os._exit(self.status)
        return super().__getitem__(number)


class Leaving(Deadly):
    status = 0


@pytest.mark.parametrize(
    ("dataset", "workers", "said"),
    [
        (Pairs, 0, "OSError: example {} cannot be read"),
        (Pairs, 2, "OSError: example {} cannot be read"),
        (Deadly, 2, "ended with exit code 3"),
        (Leaving, 2, "ended with exit code 0"),
    ],
)
def test_a_fault_of_the_data_ends_its_own_trial(dataset: type[Pairs], workers: int, said: str) -> None:
    orders = [DataOrder(seed, EXAMPLES).take(0, 32).tolist() for seed in range(50)]
    broken = orders[0][9]
    other = next(seed for seed in range(1, 50) if broken not in orders[seed] and broken > 1)
    trials = [spec(1, "sgd", lr=0.1, batch_size=8), spec(2, "sgd", lr=0.1, batch_size=8, seed=other, examples=16)]
    whole = task_of("Dataset")
    task = replace(whole, train=DataLoader(dataset(broken), num_workers=workers))
    stack = Stack(task, width=2, micro_batch=4)
    rows, ends = run_until_idle(stack, trials)
    stack.close()
    assert ends[1].outcome == "error" and said.format(broken) in str(ends[1].error)
    assert "__getitem__" in str(ends[1].error) or issubclass(dataset, Deadly)
    alone, _ = run_until_idle(Stack(whole, width=2, micro_batch=4), trials[1:])
    assert ends[2].outcome == "finished" and [r.metrics for r in rows[2]] == [r.metrics for r in alone[2]]


def gone(process_id: int, within_s: float = 20) -> bool:
    for _ in range(int(within_s / 0.05)):
        try:
            os.kill(process_id, 0)
            with open(f"/proc/{process_id}/stat", encoding="utf-8") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def own_process(numbers: Any, seeds: Any) -> tuple[Tensor, ...]:
    return (torch.full((len(numbers),), os.getpid()),)


def test_reading_processes_share_the_work_and_end_with_their_stack() -> None:
    readers = Processes(own_process, 2)
    found = readers.read(np.arange(5), None)[0].tolist()
    assert len(set(found[:3])) == len(set(found[3:])) == 1 and len({*found, os.getpid()}) == 3
    os.kill(found[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="exit code -9"):
        readers.read(np.arange(5), None)
    again = readers.read(np.arange(5), None)[0].tolist()
    assert again[0] not in (found[0], os.getpid()) and again[3] == found[3], "one of them is new"
    readers.close()
    assert all(map(gone, {*found, *again}))


def test_reading_processes_that_are_not_asked_end_and_are_there_again_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "PARENT_S", 0.02)
    monkeypatch.setattr(processes, "IDLE_S", 0.05)
    readers = Processes(own_process, 1)
    seen = []
    for turn in range(30):  # some questions come just when the process ends
        seen.append(int(readers.read(np.arange(1), None)[0]))
        time.sleep(0.05 + 0.002 * turn)
    assert 2 < len(set(seen)) and gone(seen[0])
    readers.close()
    assert all(map(gone, seen))


def test_reading_processes_end_when_the_process_that_started_them_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PARENT_S", 0.1)
    context = multiprocessing.get_context("fork")
    own, other = context.Pipe()

    def parent() -> None:
        other.send(Processes(own_process, 2).read(np.arange(2), None)[0].tolist())
        time.sleep(60)

    process = context.Process(target=parent)
    process.start()
    readers = own.recv()
    process.kill()
    process.join()
    assert all(map(gone, readers))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class ByLength(BatchSampler):
    """A batch sampler of one's own."""


def centred(items: list[Any]) -> Tensor:
    """Relative to the batch's mean."""
    x = torch.stack([torch.as_tensor(x) for (x, _), _ in items])
    return x - x.mean(0)


def time_first(items: list[Any]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.ones(2 + y) for _, y in items])


class Texts(Pairs):
    def __getitem__(self, number: int) -> Any:
        return {"text": "words", "labels": [1, 2]}


def loader(**given: Any) -> Callable[[], Any]:
    return lambda: DataLoader(Pairs(), **given)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (loader(sampler=WeightedRandomSampler([1.0] * EXAMPLES, 9)), "sampler WeightedRandomSampler.*weights="),
        (loader(sampler=RandomSampler(range(EXAMPLES), replacement=True)), "sampler RandomSampler"),
        (loader(sampler=RandomSampler(range(EXAMPLES), num_samples=7)), "sampler RandomSampler"),
        (loader(batch_sampler=ByLength(SequentialSampler(range(9)), 3, False)), "batch_sampler ByLength"),
        (loader(batch_size=None), "batch_size=None"),
        (loader(collate_fn=centred), "collate_fn in which an example's numbers depend on the others"),
        (loader(collate_fn=time_first), r"collate_fn that makes .* of one example; allowed are tensors \[1, ...\]"),
        (lambda: DataLoader(Endless()), "Endless, an IterableDataset"),
        (Endless, "Endless, an IterableDataset"),
        (lambda: Texts(), r"\['text'\]\[0\] is str"),
        (lambda: Subset(Pairs(), []), "is empty"),
        (lambda: torch.zeros(3), r"allowed is \(inputs,\)"),
        (lambda: 3, "is int; allowed are"),
        (lambda: "text", "is str; allowed are"),
    ],
)
def test_what_tuner_cannot_read_as_it_is_meant_is_refused_with_the_way_out(data: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s)train: .*{message}"):
        source_of("train", data())


def test_data_sets_of_tensors_stay_on_the_device() -> None:
    t = tensors()
    whole = TensorDataset(t["x"], t["y"])
    part, _ = random_split(whole, [40, EXAMPLES - 40], torch.Generator().manual_seed(0))
    for data in (whole, part, DataLoader(part, batch_size=16, shuffle=True, drop_last=True)):
        task = Task(torch.nn.Linear(6, 4), cross_entropy, data, whole)
        stack = Stack(task, width=1, micro_batch=4)
        assert isinstance(stack._feed, Feed) and task.kind == "classification"
    assert torch.equal(stack._feed._data[1], t["y"][part.indices])


@pytest.mark.parametrize("kind", ["Dataset", "DataLoader with processes", "rows"])
def test_validation_data_that_does_not_fit_is_read_chunk_by_chunk_with_the_same_bits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(kind)
    expected = course(task)
    monkeypatch.setattr(validation_data, "MOST_READ_BYTES", 100)
    stack = Stack(task, width=3, micro_batch=4)
    assert stack._evaluation._data.resident is None
    stack.close()
    assert course(task) == expected


def test_validation_data_may_be_arrays(tmp_path: Any) -> None:
    task = task_of("tuple input")
    (x, ids), y = task.valid
    np.save(tmp_path / "x.npy", x.numpy())
    files = (np.load(tmp_path / "x.npy", mmap_mode="r"), ids.numpy()), y
    assert course(replace(task, valid=files)) == course(task)


class Noisy(Pairs):
    """Augments one example with one seed."""

    def augmented(self, number: int, seed: int) -> Any:
        (x, ids), y = self[number]
        self.asked = [*getattr(self, "asked", []), (number, seed)]
        return (x + 0.1 * np.random.default_rng(seed).standard_normal(6), ids), y


def test_a_data_set_augments_its_examples_by_seeds() -> None:
    task = replace(task_of("Dataset"), train=Noisy())
    alone = course(task)
    pairs = list(zip(DataOrder(0, EXAMPLES).take(0, 96).tolist(), example_seeds(0, 0, 96).tolist(), strict=True))
    assert set(pairs) <= set(task.train.asked)
    assert course(task, spec(1, "sgd", lr=0.1, seed=4, examples=32), spec(2, "sgd", lr=0.1)) == alone
    assert alone != course(task_of("Dataset"))


class Transformed(Pairs):
    """Random transforms in the manner of torchvision's, from all three global generators."""

    def __getitem__(self, number: int) -> Any:
        (x, ids), y = super().__getitem__(number)
        return (x * (1 + 0.1 * torch.rand(1).item()) + 0.1 * np.random.rand() + 0.1 * random.random(), ids), y


class Drops(Two):
    """Draws on the loop path, from the same generators."""

    def forward(self, numbers: Tensor, words: Tensor) -> Tensor:
        return super().forward(torch.nn.functional.dropout(numbers, 0.3, self.training), words)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("model", [Two, Drops])
def test_random_transforms_are_those_of_the_trial_and_disturb_nobody(workers: int, model: Any) -> None:
    """They depend on the trial's seed and position: not on neighbours, processes, or what else draws."""
    task = replace(task_of("Dataset"), model=model, train=Transformed(), valid=Transformed())
    torch.manual_seed(1)
    expected = course(task)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    shared = replace(task, train=DataLoader(Transformed(), num_workers=workers))
    assert course(shared, spec(1, "sgd", lr=0.1, seed=4, examples=32), spec(2, "sgd", lr=0.1)) == expected
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    assert course(task, spec(1, "sgd", lr=0.1)) == expected != course(replace(task, train=Pairs()))


def test_every_epoch_has_transforms_of_its_own_and_validation_always_the_same() -> None:
    source = source_of("train", Transformed())
    assert source.augments
    numbers, seeds = np.array([3, 3, 4]), np.array([11, 12, 11], np.uint64)
    reader = source.opened()
    one, other, third = reader.read(numbers, seeds)[0]
    assert not torch.equal(one, other) and torch.equal(reader.read(numbers[:1], seeds[:1])[0][0], one)
    assert torch.equal(reader.read(numbers[2:])[0], source.read(numbers[2:])[0]) and not torch.equal(third, one)
    reader.close()


class Shuffled(Rows):
    """The keys of a row come in another order than those of the row before."""

    def __getitem__(self, place: Any) -> dict[str, Any]:
        row = super().__getitem__(place)
        return dict(sorted(row.items(), reverse=bool(place % 2)))


def test_values_go_by_their_names_and_not_by_their_order() -> None:
    assert course(replace(task_of("rows"), train=Shuffled())) == course(task_of("rows"))


class Lacking(Rows):
    def __getitem__(self, place: Any) -> dict[str, Any]:
        row = super().__getitem__(place)
        return row if place < 20 else {"input_ids": row["input_ids"], "labels": row["labels"]}


def test_an_example_that_lacks_something_ends_the_trial() -> None:
    stack = Stack(replace(task_of("rows"), train=Lacking()), width=1, micro_batch=1)
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1, batch_size=1)])
    stack.close()
    assert "not made like the first one: KeyError: 'attention_mask'" in str(ends[1].error)


class Drifting(Pairs):
    """Whole numbers first, and later others."""

    def __getitem__(self, number: int) -> Any:
        return torch.ones(6), 0 if number < 9 else 0.5


class Ragged(Pairs):
    def __getitem__(self, number: int) -> Any:
        return torch.ones(6 if number < 9 else 7), 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Drifting, "gave torch.float64, not torch.int64 as for its first"),
        (Ragged, r"pad them to a fixed length|gave \[1, 7\] for 1 examples, not \[1, 6\]"),
    ],
)
def test_examples_unlike_the_first_end_the_trial(data: type[Pairs], message: str) -> None:
    t = tensors()
    valid = t["x"][:VALID], t["y"][:VALID]
    stack = Stack(Task(torch.nn.Linear(6, 4), cross_entropy, data(), valid), width=1, micro_batch=1)
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1, batch_size=1)])
    stack.close()
    assert ends[1].outcome == "error" and re.search(message, str(ends[1].error)), ends[1].error


def test_the_kind_is_told_from_a_few_examples() -> None:
    assert task_of("Dataset").kind == "classification"
    assert task_of("rows").kind == task_of("the model's loss").kind == "language"
    assert Task(Two, None, Rows(), Rows(), kind="other").kind == "other"
