"""A tick of several micro-batches is the same training, and sees the same noise, as one tick for each of them."""

import math
from collections.abc import Callable

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from model_kinds import KINDS, task_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.checkpoint import decode, encode
from tuner.engine.paths.loop import MEASURED_AT, MEASURED_EVERY
from tuner.engine.splitting import splits
from tuner.errors import InvalidInput
from tuner.noise import NoiseSums, estimate_from_rows
from tuner.workloads import Task

CPU = torch.device("cpu")
PATHS = ["loop", "eager", "compiled"]
NOT_SPLIT = {"batch norm", "running mean of all", "no running statistics", "own buffers", "grouped convolutions"}


def rows_of(task: Task, trials: list[TrialSpec], per_tick: int, path: str) -> dict[int, list[Row]]:
    stack = Stack(task, width=3, micro_batch=4, per_tick=per_tick, path=path, dtype=torch.float64)
    assert stack.path == path
    rows, ends = run_until_idle(stack, trials)
    assert all(end.outcome == "finished" for end in ends.values())
    return rows


@pytest.mark.parametrize("path", PATHS)
def test_curves_and_noise_are_those_of_single_ticks(path: str) -> None:
    """Trials of two and of four micro-batches per step; the loop measures the noise of one step in four."""
    task = small_task()
    trials = [
        spec(number, name, lr=0.01, batch_size=size, examples=40 * size, report_every=4 * size, rungs=(10 * size,))
        for number, (name, size) in enumerate([("adamw", 8), ("sgd", 16), ("muon", 8), ("lion", 16)])
    ]
    single, several = rows_of(task, trials, 1, path), rows_of(task, trials, 2, path)
    for number in range(len(trials)):
        assert len(single[number]) == len(several[number]) >= 10
        for one, other in zip(single[number], several[number], strict=True):
            assert (one.step, one.examples) == (other.step, other.examples)
            assert dict(other.metrics) == pytest.approx(dict(one.metrics), rel=1e-9)
        noise, expected = (total([row.noise for row in rows[number]]) for rows in (several, single))
        assert expected.n == 40
        assert noise.n == (10 if path == "loop" else 40)
        if path != "loop":
            assert vars(noise) == pytest.approx(vars(expected), rel=1e-9)


def total(parts: list[NoiseSums | None]) -> NoiseSums:
    found = [part for part in parts if part is not None]
    return NoiseSums(**{name: sum(getattr(part, name) for part in found) for name in vars(found[0])})


def test_the_loop_measures_the_steps_that_it_splits_exactly() -> None:
    """At lr 0 every step is at the same point: what the loop measures are single ticks' values of those steps."""
    task = small_task()
    trial = spec(0, "sgd", lr=0.0, batch_size=8, examples=8 * 24, report_every=8)
    single, several = rows_of(task, [trial], 1, "loop")[0], rows_of(task, [trial], 2, "loop")[0]
    measured = {row.step: row.noise for row in several if row.noise is not None}
    assert list(measured) == [step + 1 for step in range(24) if step % MEASURED_EVERY == MEASURED_AT]
    for row in single:
        if row.step in measured:
            assert vars(measured[row.step]) == pytest.approx(vars(row.noise), rel=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_a_snapshot_within_a_step_continues_bit_for_bit(path: str) -> None:
    task = small_task()
    trial = spec(0, "adamw", lr=0.01, batch_size=16, examples=320, report_every=16)
    whole = Stack(task, width=2, micro_batch=4, per_tick=2, path=path)
    whole.admit(trial)
    other = Stack(task, width=2, micro_batch=4, per_tick=2, path=path)
    for _ in range(7):
        whole.tick()
    content = encode(whole.snapshot(0))
    other.restore(1, decode(content, trial))
    for _ in range(10):
        whole.tick(), other.tick()
    for one, two in zip(whole.parameters(0).values(), other.parameters(1).values(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(InvalidInput, match="within a step, in ticks of 2 micro-batches"):
        Stack(task, width=1, micro_batch=4, path="eager").restore(0, decode(content, trial))


def test_a_snapshot_between_steps_continues_in_ticks_of_another_size() -> None:
    """As after an upgrade: earlier checkpoints are of single ticks."""
    task = small_task()
    trial = spec(0, "adamw", lr=0.01, batch_size=16, examples=320, report_every=16)
    first = Stack(task, width=1, micro_batch=4, path="loop", dtype=torch.float64)
    first.admit(trial)
    for _ in range(8):
        first.tick()
    second = Stack(task, width=1, micro_batch=4, per_tick=2, path="loop", dtype=torch.float64)
    second.restore(0, first.snapshot(0))
    for _ in range(8):
        first.tick()
    for _ in range(4):
        second.tick()
    for one, two in zip(first.parameters(0).values(), second.parameters(0).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


class Net(nn.Module):
    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear(x))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.linear(x)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_judged(kind: str) -> None:
    assert splits(task_of(kind), CPU) == (kind not in NOT_SPLIT), kind


def test_sums_random_numbers_and_counters_are_not_split() -> None:
    plain = small_task()

    def with_model(model: Callable[[], nn.Module], loss: Callable[..., Tensor] = cross_entropy) -> Task:
        return Task(model, loss, plain.train, plain.valid)

    assert splits(plain, CPU)
    assert splits(with_model(lambda: nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5))), CPU)
    assert not splits(with_model(Counting), CPU)
    assert not splits(with_model(lambda: Net(lambda x: dropout(x, 0.5))), CPU)
    assert not splits(with_model(lambda: Net(lambda x: x), lambda x, y: cross_entropy(x, y, reduction="sum")), CPU)
    assert not splits(with_model(lambda: Net(lambda x: x * math.nan)), CPU)


def test_what_the_loop_measures_in_one_step_of_four_is_the_noise_scale() -> None:
    task = small_task(examples=512)
    trial = spec(0, "sgd", lr=0.0, batch_size=32, examples=32 * 400, report_every=32 * 50)
    found = []
    for per_tick in (1, 2):
        stack = Stack(task, width=1, micro_batch=16, per_tick=per_tick, path="loop")
        rows, _ = run_until_idle(stack, [trial])
        found.append(estimate_from_rows([row.noise for row in rows[0] if row.noise is not None], 0.99, 512))
    every, some = found
    assert some.low <= every.value <= some.high
    assert some.steps == every.steps / MEASURED_EVERY
