"""Windows over a sequence train as the windows cut out of it do, bit for bit, wherever the sequence lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_cases import run_until_idle, spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import tuner
from tuner.engine import Stack
from tuner.engine.feed import Feed
from tuner.engine.loader import feed_of
from tuner.engine.slots import Slots
from tuner.errors import InvalidInput
from tuner.workloads import Task
from tuner.workloads.transform import ExampleDraws

TOKENS = torch.randint(0, 16, (203,), generator=torch.Generator().manual_seed(1))
LENGTH, STRIDE = 8, 3
TRIALS = [
    spec(1, "adamw", lr=0.01, examples=320, seed=3, rungs=(48,)),
    spec(2, "sgd", lr=0.1, examples=160, batch_size=8, seed=4),
    spec(3, "momentum", lr=0.1, examples=160, seed=5),
]


def cut(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """The same windows, copied out."""
    starts = range(0, len(sequence) - LENGTH, STRIDE)
    pairs = [(sequence[at : at + LENGTH], sequence[at + 1 : at + LENGTH + 1]) for at in starts]
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


def model() -> nn.Module:
    return nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16))


def per_token(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten())


def task(train: Any, **more: Any) -> Task:
    return Task(model, per_token, train, tuner.Windows(TOKENS[:40], LENGTH), **more)


def course(whole: Task, path: str = "eager") -> list[Any]:
    stack = Stack(whole, width=2, micro_batch=8, path=path)
    assert stack.path == path
    rows, _ = run_until_idle(stack, TRIALS)
    return [[(row.step, row.metrics, row.noise) for row in rows[key]] for key in (1, 2, 3)]


@pytest.mark.parametrize("path", ["loop", "eager", "compiled"])
def test_a_stack_gets_the_bits_of_copied_windows(path: str) -> None:
    assert course(task(tuner.Windows(TOKENS, LENGTH, STRIDE)), path) == course(task(cut(TOKENS)), path)


def test_wherever_the_sequence_lies(tmp_path: Path) -> None:
    expected = course(task(cut(TOKENS)))
    TOKENS.numpy().astype(np.uint16).tofile(tmp_path / "tokens.u16")
    file = np.memmap(tmp_path / "tokens.u16", np.uint16, "r")
    for sequence in (file, TOKENS.to(torch.uint8), TOKENS.to(torch.uint16), TOKENS.to(torch.int32), file[:]):
        assert course(task(tuner.Windows(sequence, LENGTH, STRIDE))) == expected
    assert course(task(tuner.Windows(TOKENS.to(torch.uint16), LENGTH, STRIDE), resident=False)) == expected


def test_partners_and_weights_go_with_windows() -> None:
    def mixed(inputs: Tensor, targets: Tensor, draws: ExampleDraws, partner: Any) -> tuple[Tensor, Tensor]:
        own = draws.bernoulli(0.5, LENGTH)
        return torch.where(own, inputs, partner[0]), torch.where(own, targets, partner[1])

    weights = np.arange(len(cut(TOKENS)[0])) % 3
    found = [
        course(task(train, weights=weights, transform=mixed))
        for train in (tuner.Windows(TOKENS, LENGTH, STRIDE), cut(TOKENS))
    ]
    assert found[0] == found[1]


def test_only_the_sequence_is_kept() -> None:
    whole = task(tuner.Windows(TOKENS.to(torch.uint8), LENGTH, 1))
    assert whole.examples == 195 and whole.kind == "language"
    feed = feed_of(whole, Slots(1, 4), 1, torch.device("cpu"), torch.float32)
    assert isinstance(feed, Feed)
    assert sum(item.nbytes for item in feed._data) == 203
    x, y = feed.gather(torch.tensor([0, 194]))
    assert torch.equal(x[1], TOKENS[194:202]) and torch.equal(y[1], TOKENS[195:203])


def test_every_entry_that_fits_is_used_and_none_beyond() -> None:
    for size in (9, 10, 17, 18, 40):
        sequence = torch.arange(size)
        for stride in (1, 3, 8, 11):
            windows = tuner.Windows(sequence, 8, stride)
            starts = [at for at in range(0, size, stride) if at + 9 <= size]
            assert len(windows) == len(starts)
            x, y = windows.read(np.arange(len(windows)))
            assert x[:, 0].tolist() == starts and torch.equal(y, x + 1)
    assert len(tuner.Windows(torch.arange(33), 8)) == 4


def test_series_of_measurements_have_windows_too() -> None:
    series = torch.sin(torch.arange(120.0))[:, None].expand(120, 2).contiguous()
    whole = Task(
        lambda: nn.Linear(2, 2), mse_loss, tuner.Windows(series, 5, 2), tuner.Windows(series.numpy(), 5), weights=None
    )
    stack = Stack(whole, width=2, micro_batch=8)
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1, examples=160)])
    assert ends[1].outcome == "finished"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("text", 4), r"Windows.sequence: is str; allowed are a tensor and an array"),
        ((torch.tensor(3), 4), r"Windows.sequence: is Tensor"),
        ((TOKENS, 0), "Windows.length: is 0; allowed is a whole number of at least 1"),
        ((TOKENS, 4, 1.5), "Windows.stride: is 1.5; allowed"),
        ((TOKENS, 203), "Windows.length: is 203; allowed is less than the sequence's 203 entries"),
    ],
)
def test_what_has_no_windows_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        tuner.Windows(*arguments)
