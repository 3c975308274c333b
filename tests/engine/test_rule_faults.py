"""What an update rule raises ends the trial for which it raises, with its traceback; its neighbours keep their bits."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec
from torch import nn

from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.errors import InvalidInput
from tuner.optimizers.rules.lbfgs import LBFGS
from tuner.optimizers.rules.momentum import Momentum
from tuner.optimizers.rules.schedule_free_sgd import ScheduleFreeSGD
from tuner.workloads import Task

ODD = 0.0625
"""The learning rate at which the rules below raise."""


def raising(method: Callable[..., Any], after: int = 0) -> Callable[..., Any]:
    """A rule's method that raises where a trial has the odd learning rate and has made `after` steps."""

    def raises(rule: Any, *arguments: Any) -> Any:
        state, hp = next((a, b) for a, b in pairwise(arguments) if hasattr(a, "step"))
        if ((hp["lr"] == ODD) & (state.step >= after)).any():
            raise ZeroDivisionError("a rule of this kind cannot go on")
        return method(rule, *arguments)

    return raises


def course(trials: list[TrialSpec]) -> tuple[list[tuple[Any, ...]], dict[Any, Ended]]:
    """The rows of trial 1, without times, and all ends."""
    stack = Stack(small_task(), width=4, micro_batch=8)
    stack.keep_weights = True
    rows, ends = run_until_idle(stack, trials)
    return [seen(row) for row in rows[1]], ends


def seen(row: Row) -> tuple[Any, ...]:
    return row.step, row.metrics, row.noise


@pytest.mark.parametrize(
    ("rule", "method", "name", "more"),
    [
        (Momentum, "update", "momentum", {"clip_value": 1e6}),
        (LBFGS, "update", "lbfgs", {}),
        (ScheduleFreeSGD, "update", "schedule_free_sgd", {}),
        (ScheduleFreeSGD, "evaluation_params", "schedule_free_sgd", {}),
    ],
)
def test_an_exception_in_a_rule_ends_its_own_trial(
    rule: type, method: str, name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbours are one of the same rule, stepped with it, and one of another."""
    watched, other = spec(1, name, lr=0.01, **more), spec(2, "adamw", lr=1e-2)
    expected, _ = course([watched])
    monkeypatch.setattr(rule, method, raising(getattr(rule, method), after=3))
    found, ends = course([spec(0, name, lr=ODD, **more), watched, other])
    assert found == expected
    assert {key: end.outcome for key, end in ends.items()} == {0: "error", 1: "finished", 2: "finished"}
    assert "ZeroDivisionError: a rule of this kind cannot go on" in str(ends[0].error)


def test_a_slot_freed_by_such_an_exception_is_as_good_as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = spec(1, "lbfgs", lr=0.01)
    expected, _ = course([watched])
    monkeypatch.setattr(LBFGS, "update", raising(LBFGS.update, after=3))
    odd = [spec(key, "lbfgs", lr=ODD) for key in (3, 4, 5, 6)]
    found, ends = course([*odd, watched])
    assert found == expected and [ends[key].outcome for key in (3, 4, 5, 6)] == ["error"] * 4


def test_a_schedule_that_raises_on_its_way_ends_its_own_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its factors are computed in chunks, so it may happen long after admission."""
    from tuner.engine import update

    monkeypatch.setattr(update, "LR_CHUNK", 4)
    real = update._factors

    def factors(name: str, total: int, chosen: Any, start: int, count: int) -> Any:
        if name == "cosine" and start >= 8:
            raise ZeroDivisionError("no factor")
        return real(name, total, chosen, start, count)

    monkeypatch.setattr(update, "_factors", factors)
    trials = [spec(0, "momentum", lr=0.01, schedule="cosine"), spec(1, "momentum", lr=0.01)]
    _, ends = run_until_idle(Stack(small_task(), width=2, micro_batch=8), trials)
    assert {key: (end.outcome, end.step) for key, end in ends.items()} == {0: ("error", 8), 1: ("finished", 25)}


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.phase = nn.Parameter(torch.ones(5, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x) * self.phase).abs()  # type: ignore[no-any-return]


def test_complex_parameters_are_refused_before_anything_is_trained() -> None:
    task = small_task()
    with pytest.raises(InvalidInput, match="phase: is complex64; allowed are real floating-point parameters"):
        Stack(Task(Complex, task.loss, task.train, task.valid), width=2, micro_batch=4)


class Rotated(nn.Module):
    """A complex buffer, as models with rotary positions have."""

    turn: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.register_buffer("turn", torch.polar(torch.ones(5), torch.arange(5.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x) * self.turn).imag  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complex_buffers_keep_their_imaginary_part(dtype: torch.dtype) -> None:
    task = small_task()
    stack = Stack(Task(Rotated, task.loss, task.train, task.valid), width=2, micro_batch=4, dtype=dtype)
    slot = stack.admit(spec(0, "sgd", lr=0.1))
    assert slot is not None
    assert torch.equal(
        stack.weights(slot)["turn"], torch.polar(torch.ones(5), torch.arange(5.0)).to(dtype.to_complex())
    )
    x, y = (part.to(dtype) if part.is_floating_point() else part for part in task.valid)
    linear = {name.removeprefix("linear."): value for name, value in stack.weights(slot).items() if name != "turn"}
    output = nn.functional.linear(x, **linear) * torch.polar(torch.ones(5), torch.arange(5.0)).to(dtype.to_complex())
    assert stack.evaluate([slot])[0]["valid_loss"] == pytest.approx(float(task.loss(output.imag, y)), rel=1e-5)


class Hollow(nn.Module):
    """A parameter without elements, and one without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.nothing, self.scale = nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["adamw", "muon", "lbfgs"])
def test_odd_shapes_end_in_a_result_or_in_their_own_error_beside_a_sound_neighbour(name: str) -> None:
    task = small_task()
    stack = Stack(Task(Hollow, task.loss, task.train, task.valid), width=2, micro_batch=8)
    _, ends = run_until_idle(stack, [spec(0, name, lr=0.01), spec(1, "sgd", lr=0.01)])
    assert ends[1].outcome == "finished" and ends[1].infeasible is None
    assert ends[0].outcome == "finished" or "Error" in str(ends[0].error)
