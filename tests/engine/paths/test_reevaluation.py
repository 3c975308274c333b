"""Rules that need the loss again: a backtracking line search in the stack is the one in a plain loop."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from engine_cases import batches, run_until_idle, small_task, solo_model, spec
from line_search import SHRINK, SLOPE, TRIES, Backtracking, FlatBacktracking, register
from model_kinds import CLASSES, VECTOR, task_for, task_of
from torch import Tensor, nn

from tuner.engine import Row, Stack, TrialSpec
from tuner.engine.paths.reevaluation import ROWS
from tuner.optimizers.rule import Evaluate, State, Tensors
from tuner.workloads import Task

TAME: dict[str, Any] = {"divergence_factor": 1e9}
"""A search on one batch may well make the next one's loss much larger."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Backtracking, FlatBacktracking)


def plain(task: Task, trial: TrialSpec, steps: int) -> tuple[nn.Module, int]:
    """The same search on one model, on full batches; also count how often a step was halved."""
    halved = 0
    model = solo_model(task, trial.seed, torch.float64)
    for x, y in batches(task, trial.seed, trial.batch_size, torch.float64, steps):
        loss = task.loss(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        slope = sum(float((g**2).sum()) for g in gradients)
        start = [p.detach().clone() for p in model.parameters()]
        step = float(trial.params["lr"])
        for _ in range(TRIES):
            with torch.no_grad():
                for p, s, g in zip(model.parameters(), start, gradients, strict=True):
                    p.copy_(s - step * g)
                if float(task.loss(model(x), y)) <= loss.item() - SLOPE * step * slope:
                    break
            step *= SHRINK
            halved += 1
    return model, halved


@pytest.mark.parametrize(
    ("name", "path"), [("backtracking", "eager"), ("backtracking", "loop"), ("flat-backtracking", "eager")]
)
def test_a_line_search_equals_a_plain_loop(name: str, path: str) -> None:
    """Nine slots, more than one pass holds, three batch sizes, the whole training set among them, beside AdamW."""
    task = small_task(examples=48)
    stack = Stack(task, width=10, micro_batch=4, dtype=torch.float64, path=path)
    assert len(stack._reevaluation._forward.params) == ROWS < 9
    stack.admit(spec(99, "adamw", batch_size=12, examples=10**6))
    trials = [
        spec(i, name, lr=12.0 / (i + 1), batch_size=(8, 24, 48)[i % 3], examples=10**6, seed=i, **TAME)
        for i in range(9)
    ]
    slots = [stack.admit(trial) for trial in trials]
    ticks, halvings = 24, 0
    for _ in range(ticks):
        stack.tick()
    for trial, slot in zip(trials, slots, strict=True):
        assert slot is not None
        expected, halved = plain(task, trial, ticks * 4 // trial.batch_size)
        halvings += halved
        for key, value in stack.parameters(slot).items():
            torch.testing.assert_close(value, dict(expected.named_parameters())[key].detach(), rtol=1e-9, atol=1e-10)
    assert halvings >= 9


class Scaled(nn.Module):
    """Inputs are scaled by drawn numbers, a buffer: every seed's loss is another function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, CLASSES)
        self.register_buffer("scale", torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.scale)  # type: ignore[no-any-return]


@pytest.mark.parametrize("task", [small_task(), task_for(VECTOR, Scaled)], ids=["plain", "own buffers"])
def test_a_searching_trial_keeps_its_bits_beside_others(task: Task) -> None:
    """Also beside a search that meets nothing but NaN, and where the loss depends on the slot's own buffers."""
    watched = spec(100, "backtracking", lr=4.0, batch_size=8, examples=96, report_every=16, **TAME)
    others = [
        spec(1, "sgd", lr=1e39, batch_size=4, examples=4000, divergence_factor=1e30),
        spec(2, "backtracking", lr=1e38, batch_size=4, examples=40, seed=4, divergence_factor=1e30),
        spec(3, "backtracking", lr=3.0, batch_size=16, examples=96, seed=5),
    ]
    found = []
    for trials in ([watched], [*others, watched], [others[0], watched, *others[1:]]):
        rows, _ = run_until_idle(Stack(task, width=5, micro_batch=4), trials)
        found.append([(row.step, row.metrics, row.noise) for row in rows[100]])
    assert found[0] == found[1] == found[2] and len(found[0]) == 6


def test_the_loss_again_sees_the_same_masks_and_leaves_buffers_alone() -> None:
    """The rule itself compares the gradients; batch statistics are updated once per tick, not once per evaluation."""
    dropping = task_for(VECTOR, lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(7, CLASSES)))
    for task in (dropping, task_of("batch norm")):
        stack = Stack(task, width=2, micro_batch=4)
        assert stack.path == "eager"
        slot = stack.admit(spec(1, "backtracking", lr=4.0, batch_size=8, examples=10**6, seed=3, **TAME))
        assert slot is not None
        for _ in range(20):
            stack.tick()
        assert stack.keys() == [1]
        extras = stack.snapshot(slot).extras
        assert int(extras.get("1.num_batches_tracked", 20)) == 20


def test_what_the_workload_raises_in_an_evaluation_ends_that_trial_alone() -> None:
    base = small_task()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if output.detach().abs().max() > 50:
            raise ArithmeticError("too large to be true")
        return base.loss(output, target)

    stack = Stack(Task(base.model, loss, base.train, base.valid), width=2, micro_batch=4)
    assert stack.path == "loop"
    trials = [spec(1, "backtracking", lr=1e6, examples=160), spec(2, "backtracking", lr=1.0, examples=160)]
    _, ends = run_until_idle(stack, trials)
    assert ends[1].outcome == "error" and "too large to be true" in str(ends[1].error)
    assert ends[2].outcome == "finished"


def test_snapshots_of_searching_trials_continue_bit_for_bit() -> None:
    task, watched = small_task(), spec(100, "backtracking", lr=4.0, batch_size=8, examples=160, **TAME)
    (expected,) = run_until_idle(Stack(task, width=3, micro_batch=4), [watched])[0].values()
    first, second = (Stack(task, width=3, micro_batch=4) for _ in range(2))
    slot = first.admit(watched)
    assert slot is not None
    found = [event for _ in range(15) for event in first.tick() if isinstance(event, Row)]
    second.restore(2, first.snapshot(slot))
    found += run_until_idle(second, [])[0][100]
    assert found[-1].metrics["valid_loss"] == expected[-1].metrics["valid_loss"]


def test_rules_that_need_no_loss_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Asking(Backtracking):
        name = "asking"
        needs_loss = False

        def update(
            self,
            grads: Tensors,
            params: Tensors,
            state: State,
            hp: Mapping[str, Tensor],
            evaluate: Evaluate | None = None,
        ) -> None:
            state.step.add_(1)
            seen.append(evaluate)

    register(monkeypatch, Asking)
    run_until_idle(Stack(small_task(), width=1, micro_batch=4), [spec(1, "asking", lr=1.0, examples=48)])
    assert seen == [None, None, None]
