"""Buffers, frozen parameters, convolutions and attention run in the stack: as alone, with their own bits."""

import pytest
import torch
from engine_cases import batches, run_until_idle, solo_model, spec
from model_kinds import CLASSES, KINDS, VECTOR, task_for, task_of
from torch import nn

from tuner.engine import Row, Stack, TrialSpec
from tuner.workloads import Task

STEPS = 20
BATCH = 8
CONFIGURATIONS = [
    {"optimizer": "sgd", "lr": 0.05},
    {"optimizer": "momentum", "lr": 0.02, "momentum": 0.8},
    {"optimizer": "sgd", "lr": 0.2},
]


def as_double(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


def solo(task: Task, trial: TrialSpec) -> nn.Module:
    """Train the workload's own module with torch.optim.

    Not with Adam: a bias before batch normalisation has no gradient but rounding errors, which Adam makes steps of.
    """
    model = solo_model(task, trial.seed, torch.float64).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    lr, momentum = float(trial.params["lr"]), float(trial.params.get("momentum", 0))
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=0.01)
    for x, y in batches(task, trial.seed, BATCH, task.train[0].dtype, STEPS):
        optimizer.zero_grad()
        task.loss(model(as_double(x)), y).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("path", ["eager", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_stack_equals_solo_in_float64(kind: str, path: str) -> None:
    """Parameters, buffers, and the validation loss with the running statistics."""
    task = task_of(kind)
    stack = Stack(task, width=3, micro_batch=BATCH, dtype=torch.float64, path=path)
    trials = [
        spec(key, batch_size=BATCH, seed=key, examples=10**6, weight_decay=0.01, **given)  # type: ignore[arg-type]
        for key, given in enumerate(CONFIGURATIONS)
    ]
    slots = [stack.admit(trial) for trial in trials]
    for _ in range(STEPS):
        stack.tick()
    for trial, slot in zip(trials, slots, strict=True):
        assert slot is not None
        expected = solo(task, trial)
        found = stack.parameters(slot) | stack.snapshot(slot).extras
        named = {n: t for n, t in [*expected.named_parameters(), *expected.named_buffers()]}
        assert set(found) == set(named)
        for name, value in found.items():
            torch.testing.assert_close(value, named[name].detach(), rtol=1e-10, atol=1e-11, msg=f"{trial.key} {name}")
        x, y = task.valid
        with torch.no_grad():
            output = expected.eval()(as_double(x))
        assert stack.evaluate([slot])[0]["valid_loss"] == pytest.approx(float(task.loss(output, y)), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_stacked_and_no_slot_or_neighbour_changes_a_bit(kind: str) -> None:
    """The neighbours include one that overflows to NaN at once."""
    task = task_of(kind)
    watched = spec(100, "adamw", lr=3e-3, batch_size=8, examples=80, report_every=8)
    others = [
        spec(1, "sgd", lr=1e39, batch_size=4, examples=400, seed=3, divergence_factor=1e30),
        spec(2, "muon", lr=1e-2, batch_size=4, examples=40, seed=1),
        spec(3, "momentum", lr=0.01, batch_size=8, examples=400, seed=2),
    ]

    def seen(trials: list[TrialSpec]) -> list[tuple[object, ...]]:
        stack = Stack(task, width=5, micro_batch=4)
        assert stack.path == "eager"
        rows, ends = run_until_idle(stack, trials)
        assert 1 not in ends or ends[1].infeasible == "diverged"
        return [(row.step, row.metrics, row.noise) for row in rows[100]]

    expected = seen([watched])
    assert len(expected) == 10
    for place in (1, 3):
        assert seen([*others[:place], watched, *others[place:]]) == expected


def test_a_freed_slot_starts_with_the_buffers_of_its_own_trial() -> None:
    task = task_of("batch norm")
    stack = Stack(task, width=2, micro_batch=4)
    watched = spec(100, "adamw", lr=1e-2, examples=160)
    expected = run_until_idle(Stack(task, width=2, micro_batch=4), [watched])[0][100][-1].metrics
    first = stack.admit(spec(1, "sgd", lr=0.5, examples=4000))
    assert first == 0
    for _ in range(20):
        stack.tick()
    before = stack.snapshot(0).extras["1.running_mean"]
    stack.evict(0)
    for _ in range(3):
        stack.tick()
    assert stack.admit(watched) == 0
    assert float(before.abs().sum()) > 0 and float(stack.snapshot(0).extras["1.running_mean"].abs().sum()) == 0
    assert run_until_idle(stack, [])[0][100][-1].metrics == expected


def test_a_batch_norm_over_one_value_ends_the_trial_with_an_error() -> None:
    stack = Stack(task_of("batch norm"), width=2, micro_batch=1)
    assert stack.path == "loop"
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1)])
    assert ends[1].outcome == "error" and "more than 1 value per channel" in str(ends[1].error)


class PicksBySlot(nn.Module):
    """Runs under vmap, but what it computes rests on a value that is shared by all slots."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, CLASSES)
        self.turn = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.turn += 1
        return self.linear(x) * self.turn  # type: ignore[no-any-return]


def test_a_model_that_computes_something_else_under_vmap_is_not_stacked(caplog: pytest.LogCaptureFixture) -> None:
    stack = Stack(task_for(VECTOR, PicksBySlot), width=2, micro_batch=4)
    assert stack.path == "loop"
    assert "runs slot by slot" in caplog.text


def test_snapshots_carry_buffers_between_stacks() -> None:
    task = task_of("grouped convolutions")
    watched = spec(100, "adamw", lr=1e-2, batch_size=8, examples=320)

    def last(rows: list[Row]) -> object:
        return rows[-1].metrics

    expected = last(run_until_idle(Stack(task, width=3, micro_batch=4), [watched])[0][100])
    first, second = (Stack(task, width=3, micro_batch=4) for _ in range(2))
    slot = first.admit(watched)
    assert slot is not None
    for _ in range(31):
        first.tick()
    second.restore(2, first.snapshot(slot))
    assert last(run_until_idle(second, [])[0][100]) == expected
