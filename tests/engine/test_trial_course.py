"""The course of one trial: steps, rungs, report rows, and how it can end."""

import math

import pytest
import torch
from engine_cases import batches, run_until_idle, small_task, solo_model, spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.engine import Ended, Stack
from tuner.engine.divergence import PATIENCE
from tuner.errors import InvalidInput, NotFound
from tuner.workloads import Task


def test_steps_rungs_and_rows() -> None:
    """B = 16 and 100 examples: 6 steps; rungs at 20 and 33 fall on steps 2 and 3; rows at 50 and at the end."""
    stack = Stack(small_task(), width=2, micro_batch=4)
    rows, ends = run_until_idle(stack, [spec(1, "sgd", lr=0.1, examples=100, rungs=(20, 33, 500), report_every=50)])
    assert [(row.step, row.examples, "valid_loss" in row.metrics) for row in rows[1]] == [
        (2, 32, True),
        (3, 48, True),
        (4, 64, False),
        (6, 96, True),
    ]
    assert all({"train_loss"} <= set(row.metrics) for row in rows[1])
    assert [row.noise.n for row in rows[1] if row.noise] == [2, 1, 1, 2]
    assert ends[1] == Ended(1, "finished", 6, 96)


def test_train_loss_is_the_mean_of_the_micro_batches_since_the_last_row() -> None:
    """With lr 0 the model stays as it was, so every row's loss is that of the initial weights."""
    task = small_task()
    stack = Stack(task, width=1, micro_batch=4, dtype=torch.float64)
    rows, _ = run_until_idle(stack, [spec(1, "sgd", lr=0.0, examples=64, seed=5, report_every=32)])
    model = solo_model(task, 5, torch.float64)
    losses = [float(task.loss(model(x), y).detach()) for x, y in batches(task, 5, 32, torch.float64, 2)]
    assert [row.metrics["train_loss"] for row in rows[1]] == pytest.approx(losses, rel=1e-12)


def test_final_metrics_are_those_of_the_validation_data() -> None:
    task = small_task()
    stack = Stack(task, width=3, micro_batch=4, dtype=torch.float64)
    rows, _ = run_until_idle(stack, [spec(1, "adamw", lr=0.0, seed=5)])
    output = solo_model(task, 5, torch.float64)(task.valid[0].double()).detach()
    assert rows[1][-1].metrics["valid_loss"] == pytest.approx(
        float(cross_entropy(output, task.valid[1]).detach()), rel=1e-12
    )
    assert rows[1][-1].metrics["valid_accuracy"] == float((output.argmax(1) == task.valid[1]).double().mean())


def test_a_batch_beyond_the_budget_is_infeasible() -> None:
    stack = Stack(small_task(), width=1, micro_batch=4)
    assert stack.admit(spec(1, "sgd", lr=0.1, examples=15)) is None
    assert stack.tick() == [Ended(1, "finished", 0, 0, infeasible="batch_exceeds_budget")]
    assert not stack.busy


@pytest.mark.parametrize(("factor", "lr", "steps"), [(3.0, 1e3, PATIENCE), (1e30, 1e39, 1)])
def test_divergence_ends_the_trial_and_nobody_else(factor: float, lr: float, steps: int) -> None:
    """By losses that stay high, or by one that is not finite; dated to its own step, noticed within 16 ticks."""
    stack = Stack(small_task(), width=2, micro_batch=4)
    stack.admit(spec(1, "sgd", lr=lr, examples=10_000, divergence_factor=factor))
    stack.admit(spec(2, "sgd", lr=0.1, examples=800))
    events = [event for _ in range(4 * (steps + 1) + 16) for event in stack.tick()]
    assert [e for e in events if isinstance(e, Ended)] == [Ended(1, "finished", steps, 16 * steps, "diverged")]
    rows, ends = run_until_idle(stack, [])
    assert ends[2] == Ended(2, "finished", 50, 800)
    assert all(math.isfinite(value) for row in rows[2] for value in row.metrics.values())


def test_numbers_beyond_a_double_end_their_trial_and_not_the_stack() -> None:
    """Squares of squared norms overflow long before the loss does; a boundless factor lets no infinite loss pass."""
    base = small_task()
    task = Task(base.model, lambda output, y: (output * output).mean(), base.train, base.valid)
    stack = Stack(task, width=2, micro_batch=4, dtype=torch.float64)
    wild = spec(1, "sgd", lr=1e60, batch_size=8, report_every=8, divergence_factor=1e308)
    rows, ends = run_until_idle(stack, [wild, spec(2, "sgd", lr=0.01)])
    assert ends[1].infeasible == "diverged" and ends[2].outcome == "finished"
    assert all(math.isfinite(value) for row in rows.get(1, []) for value in row.metrics.values())


def test_divergence_by_the_last_update_is_seen() -> None:
    stack = Stack(small_task(), width=1, micro_batch=4)
    _, ends = run_until_idle(stack, [spec(1, "sgd", lr=float("1e39"), examples=16)])
    assert ends[1].infeasible == "diverged"


def test_illegal_configurations_are_refused_and_leave_no_trace() -> None:
    stack = Stack(small_task(), width=1, micro_batch=4)
    for bad, word in [
        (spec(1, "sdg", lr=0.1), "sdg"),
        (spec(1, "sgd", lr=-1.0), "lr"),
        (spec(1, "sgd", lr=0.1, batch_size=6), "multiples of the micro-batch 4"),
        (spec(1, "sgd", lr=0.1, batch_size="16"), "batch_size"),
        (spec(1, "sgd", lr=0.1, schedule="staircase"), "staircase"),
        (spec(1, "sgd", lr=0.1, schedule="linear", warmup=2.0), "warmup"),
    ]:
        with pytest.raises(InvalidInput, match=word):
            stack.admit(bad)
        assert stack.free == 1 and not stack.busy
    stack.admit(spec(1, "sgd", lr=0.1))
    with pytest.raises(InvalidInput, match="all 1 slots"):
        stack.admit(spec(2, "sgd", lr=0.1))
    with pytest.raises(NotFound, match="holds no trial"):
        Stack(small_task(), width=1, micro_batch=4).evict(0)


class Failing(nn.Module):
    """Raises once its own weights have grown: a fault of one trial's configuration."""

    def __init__(self, stateful: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        if stateful:
            self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "calls"):
            self.calls += 1
            if self.training and self.calls > 3 and float(self.linear.weight.detach().abs().max()) > 100:
                raise RuntimeError("the weights grew too large")
        return self.linear(x)  # type: ignore[no-any-return]


def test_an_error_in_the_loop_ends_its_own_trial_only() -> None:
    base = small_task()
    task = Task(lambda: Failing(True), base.loss, base.train, base.valid)
    stack = Stack(task, width=2, micro_batch=4)
    assert stack.path == "loop"
    hot = spec(1, "sgd", lr=1e4, batch_size=4, divergence_factor=1e30)
    _, ends = run_until_idle(stack, [hot, spec(2, "sgd", lr=0.1)])
    assert ends[1].outcome == "error" and "the weights grew too large" in str(ends[1].error)
    assert ends[2].outcome == "finished"


def test_an_error_in_a_metric_is_an_error_of_the_trial() -> None:
    base = small_task()

    def broken(output: Tensor, target: Tensor) -> Tensor:
        raise KeyError("no such class")

    task = Task(base.model, base.loss, base.train, base.valid, {"broken": broken})
    _, ends = run_until_idle(Stack(task, width=2, micro_batch=4), [spec(1, "sgd", lr=0.1)])
    assert ends[1].outcome == "error" and "no such class" in str(ends[1].error)


def test_an_error_of_the_stacked_program_ends_its_trials() -> None:
    base, healthy = small_task(), [True]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if not healthy[0]:
            raise RuntimeError("the loss broke")
        return cross_entropy(output, target)

    stack = Stack(Task(base.model, loss, base.train, base.valid), width=2, micro_batch=4)
    stack.admit(spec(1, "sgd", lr=0.1))
    stack.tick()
    healthy[0] = False
    assert [(e.key, e.outcome) for e in stack.tick() if isinstance(e, Ended)] == [(1, "error")]
    healthy[0] = True
    _, ends = run_until_idle(stack, [spec(2, "sgd", lr=0.1)])
    assert ends[2].outcome == "finished"
