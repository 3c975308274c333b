"""Loaders whose collate_fn pads to the longest: trained as by a loop of one's own, where padding is masked."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, solo_model, spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from tuner.engine import Stack
from tuner.engine.batch_dependence import depends_on_batch
from tuner.engine.data_order import DataOrder
from tuner.errors import InvalidInput
from tuner.workloads import Task
from tuner.workloads.sources import source_of

EXAMPLES, LONGEST = 61, 17
WATCHED = spec(100, "momentum", lr=0.05, examples=480, report_every=16, rungs=(48,), seed=3)
CROWD = [
    spec(1, "sgd", lr=1e39, batch_size=16, examples=640, seed=3, divergence_factor=1e30),
    spec(2, "adamw", lr=1e-2, batch_size=8, examples=80, seed=0),
]


class Texts(Dataset[Any]):
    """Sentences of 1 to 17 words, and a class; the longest stand at the end."""

    def __init__(self, examples: int = EXAMPLES) -> None:
        generator = torch.Generator().manual_seed(1)
        lengths = 1 + torch.arange(examples) * (LONGEST - 1) // (examples - 1)
        self.words = [torch.randint(1, 20, (int(n),), generator=generator) for n in lengths]
        self.classes = torch.randint(0, 4, (examples,), generator=generator)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, number: int) -> Any:
        return {"words": self.words[number], "class": int(self.classes[number])}


def classified(items: list[dict[str, Any]]) -> Any:
    """Zeros behind the words. It takes its items apart, as some do."""
    words = pad_sequence([item.pop("words") for item in items], batch_first=True)
    return words, torch.tensor([item["class"] for item in items])


def continued(items: list[dict[str, Any]]) -> Any:
    """Zeros before the words, and the next word as target, -100 for padding."""
    rows = [item["words"] for item in items]
    most = max(map(len, rows))
    words = torch.stack([nn.functional.pad(row, (most - len(row), 0)) for row in rows])
    targets = words.roll(-1, 1)
    targets[:, -1] = 0
    return words, torch.where((words > 0) & (targets > 0), targets, -100)


class Bag(nn.Module):
    """The mean over the words that are none of the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        mask = (words > 0).to(self.head.weight.dtype)
        return self.head((self.embed(words) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))  # type: ignore[no-any-return]


class NextWord(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(words)))  # type: ignore[no-any-return]


def per_word(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten())


def bag(workers: int = 0) -> Task:
    loader = DataLoader(Texts(), collate_fn=classified, num_workers=workers)
    return Task(Bag, cross_entropy, loader, DataLoader(Texts(30), collate_fn=classified))


def next_word() -> Task:
    return Task(
        NextWord, per_word, DataLoader(Texts(), collate_fn=continued), DataLoader(Texts(9), collate_fn=continued)
    )


def literal(task: Task, collate: Any, lr: float, steps: int) -> dict[str, Tensor]:
    """A script of one's own: batches of 16, each padded to its own longest."""
    model, texts = solo_model(task, 3, torch.float64), Texts()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    lengths = set()
    for step in range(steps):
        numbers = DataOrder(3, EXAMPLES).take(16 * step, 16)
        words, target = collate([texts[number] for number in numbers.tolist()])
        lengths.add(words.shape[1])
        optimizer.zero_grad()
        task.loss_of(model(words), [target]).backward()
        optimizer.step()
    assert len(lengths) > 1
    return model.state_dict()


@pytest.mark.parametrize(("path", "size"), [("loop", 16), ("eager", 16), ("eager", 4), ("compiled", 8)])
def test_a_stack_is_a_loop_of_ones_own_where_padding_is_masked(path: str, size: int) -> None:
    stack = Stack(bag(), width=2, micro_batch=size, path=path, dtype=torch.float64)
    assert stack.path == path
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [WATCHED, spec(1, "adamw", lr=0.01, examples=160, seed=4)])
    stack.close()
    weights = ends[100].weights
    assert weights is not None
    for name, expected in literal(bag(), classified, 0.05, 30).items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-12, atol=1e-12)


def test_a_mean_over_words_is_trained_in_whole_batches_as_by_a_loop_of_ones_own() -> None:
    cpu = torch.device("cpu")
    assert depends_on_batch(next_word(), cpu) and not depends_on_batch(bag(), cpu)
    stack = Stack(next_word(), width=2, micro_batch=16, dtype=torch.float64, batch="whole")
    stack.keep_weights = True
    _, ends = run_until_idle(stack, [WATCHED])
    stack.close()
    weights = ends[100].weights
    assert weights is not None
    for name, expected in literal(next_word(), continued, 0.05, 30).items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-12, atol=1e-12)


def course(stack: Stack, trials: list[Any]) -> list[Any]:
    rows, _ = run_until_idle(stack, trials, until=100)
    stack.close()
    return [(row.step, row.metrics, row.noise) for row in rows[100]]


@pytest.mark.parametrize("path", ["loop", "eager"])
def test_trials_are_isolated_and_resume_bit_for_bit(path: str) -> None:
    """Beside trials whose micro-batches are longer or shorter, and read by processes."""
    expected = course(Stack(bag(), width=3, micro_batch=8, path=path), [WATCHED])
    assert course(Stack(bag(workers=2), width=3, micro_batch=8, path=path), [*CROWD, WATCHED]) == expected
    first, second = (Stack(bag(), width=3, micro_batch=8, path=path) for _ in range(2))
    slot = first.admit(WATCHED)
    assert slot is not None
    for _ in range(13):
        first.tick()
    second.restore(2, first.snapshot(slot))
    first.close()
    assert course(second, []) == expected[-len(expected) + 6 :]


@pytest.mark.parametrize("collate", [classified, continued])
def test_every_batch_is_as_long_as_the_longest_example(collate: Any) -> None:
    source = source_of("train", DataLoader(Texts(), collate_fn=collate))
    words, target = source.read(np.array([5, 60, 0]))
    assert words.shape == (3, LONGEST) and target.shape[0] == 3
    alone = source.read(np.array([0]))
    assert torch.equal(alone[0][0], words[2]) and torch.equal(alone[1][0], target[2])
    assert torch.equal(words[1], Texts()[60]["words"])
    assert words[2].count_nonzero() == 1


def test_lengths_that_differ_only_later_are_found() -> None:
    class Late(Texts):
        def __init__(self) -> None:
            super().__init__()
            self.words[:40] = [torch.ones(4, dtype=torch.long)] * 40

    source = source_of("train", DataLoader(Late(), collate_fn=classified))
    assert source.read(np.arange(3))[0].shape == (3, LONGEST)


def test_random_numbers_and_statistics_of_the_batch_are_refused() -> None:
    def masked(items: list[dict[str, Any]]) -> Any:
        words, target = classified(items)
        return words * (torch.rand(words.shape) < 0.5), target

    def weighed(items: list[dict[str, Any]]) -> Any:
        words, target = classified(items)
        return words / words.sum(), target

    def read(collate: Any) -> Iterator[Any]:
        return iter(source_of("train", DataLoader(Texts(), collate_fn=collate)).read(np.arange(2)))

    for collate in (masked, weighed):
        with pytest.raises(InvalidInput, match="depend on the others; allowed is one in which each stands for itself"):
            read(collate)
