"""The compiled path takes buffers, frozen parameters and dropout, with the bits that the stack promises."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, spec
from model_kinds import CLASSES, VECTOR, task_for
from test_same_bits import rows_of
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tuner.engine import Stack
from tuner.engine.paths import compiled as compiled_module
from tuner.engine.paths import path as path_module
from tuner.engine.paths.compiled import CompiledForward, compiled_forward
from tuner.engine.paths.dry_run import SLOT_DEPENDENT
from tuner.workloads import Task

WATCHED = spec(100, "adamw", lr=1e-2, batch_size=8, examples=160, seed=3, report_every=8)
CROWD = [
    spec(1, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
    spec(2, "sgd", lr=1e-2, batch_size=4, examples=60, seed=0),
    spec(3, "adamw", lr=1e-2, batch_size=12, examples=96, seed=7),
]


class Everything(nn.Module):
    """Frozen weights, running statistics, a buffer assigned anew, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 6).requires_grad_(False)
        self.normed = nn.Sequential(nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(9, CLASSES)
        self.register_buffer("centre", torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
        return self.head(self.normed(self.first(x - self.centre)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def task() -> Task:
    return task_for(VECTOR, Everything)


@pytest.fixture(scope="module")
def compiled(task: Task) -> Iterator[Stack]:
    """One stack for all tests: every trial before is one more that must leave no trace."""
    yield Stack(task, width=4, micro_batch=4, path="compiled")


def empty(stack: Stack) -> None:
    for key in stack.keys():
        slot = stack.slot_of(key)
        assert slot is not None
        stack.evict(slot)
    stack.tick()


def test_slot_and_neighbours_change_no_bit(compiled: Stack) -> None:
    """The dropped elements and the statistics included, beside one that overflows to NaN."""
    assert compiled.path == "compiled"
    expected = rows_of(run_until_idle(compiled, [WATCHED])[0][100])
    assert len(expected) == 20
    for place in (1, 3):
        rows, _ = run_until_idle(compiled, [*CROWD[:place], WATCHED, *CROWD[place:]], until=100)
        assert rows_of(rows[100]) == expected
        empty(compiled)


def test_it_computes_what_the_eager_path_computes(compiled: Stack, task: Task) -> None:
    """Losses, buffers and frozen weights; masks that differed in one element would differ by far more."""
    found: list[Any] = []
    for stack in (compiled, Stack(task, width=4, micro_batch=4, path="eager")):
        for neighbour in CROWD:
            stack.admit(neighbour)
        slot = stack.admit(WATCHED)
        assert slot == 3
        events = [event for _ in range(30) for event in stack.tick()]
        losses = [event.metrics["train_loss"] for event in [*events, *stack.say()] if event.key == 100]
        found.append((losses, stack.weights(slot)))
        empty(stack)
    (losses, weights), (eager_losses, eager_weights) = found
    assert losses == pytest.approx(eager_losses, rel=1e-4) and len(losses) == 15
    assert weights.keys() == eager_weights.keys() == dict(Everything().state_dict()).keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, eager_weights[name], rtol=1e-3, atol=1e-4)
    assert int(weights["normed.1.num_batches_tracked"]) == 30


def test_snapshot_continues_bit_for_bit_in_another_slot(compiled: Stack) -> None:
    expected = rows_of(run_until_idle(compiled, [WATCHED])[0][100])
    compiled.admit(WATCHED)
    found: list[Any] = [event for _ in range(17) for event in compiled.tick()]
    snapshot = compiled.snapshot(0)
    empty(compiled)
    compiled.admit(CROWD[2])
    compiled.restore(2, snapshot)
    rows, _ = run_until_idle(compiled, [], until=100)
    assert rows_of(found + rows[100]) == expected
    empty(compiled)


def test_a_program_that_tells_slots_apart_is_not_taken(
    task: Task, compiled: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels that round the last slots otherwise would break the promise: such a stack is eager."""
    call = CompiledForward._call

    def uneven(self: CompiledForward, *args: Any) -> Tensor:
        result = call(self, *args)
        result[0, -1] *= 1 + 2.0**-50
        return result

    monkeypatch.setattr(compiled_module, "compile_once", lambda program: program)
    architecture, params = compiled._architecture, compiled._architecture.layout.allocate(4, compiled.device)
    buffers = architecture, params
    assert compiled_forward(*buffers, compiled._feed.sample()) is not None
    monkeypatch.setattr(CompiledForward, "_call", uneven)
    assert compiled_forward(*buffers, compiled._feed.sample()) is None
    assert "depend on the slot" in str(caplog.records[-1].__dict__["reason"])


def test_models_whose_slots_only_eager_kernels_tell_apart_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """One output per example: on some processors torch's batched product then rounds by slot."""
    monkeypatch.setattr(path_module, "fault_of_vmap", lambda *_: SLOT_DEPENDENT)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(97, 50, generator=generator)
    task = Task(lambda: nn.Sequential(nn.Linear(50, 1), nn.Flatten(0)), mse_loss, (x, x.sum(1)), (x, x.sum(1)))
    assert Stack(task, width=3, micro_batch=32).path == "loop"
    stack = Stack(task, width=5, micro_batch=32, path="compiled")
    assert stack.path == "compiled"
    watched = spec(100, "sgd", lr=1e-2, batch_size=32, examples=640, report_every=32)
    crowd = [spec(key, "sgd", lr=1e-2, batch_size=32, examples=320 * key, seed=key) for key in (1, 2)]
    expected = rows_of(run_until_idle(stack, [watched])[0][100])
    for trials in ([*crowd, watched], [crowd[0], watched]):
        assert rows_of(run_until_idle(stack, trials)[0][100]) == expected
