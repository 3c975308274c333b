"""Evaluation by passes of several slots: right, and blind to who else is evaluated."""

import logging
from typing import Any

import pytest
import torch
from engine_cases import small_task, spec
from torch import Tensor

from tuner.engine import Stack
from tuner.engine.architecture import Architecture
from tuner.engine.extras import Extras
from tuner.engine.paths import evaluation
from tuner.engine.paths.evaluation import ROWS, Evaluation
from tuner.engine.validation_data import ValidationData
from tuner.workloads import Task

WIDTH = ROWS + 3


class Case:
    """Some models of a task, and its evaluation without the compiler: the same program, operation by operation."""

    def __init__(self, task: Task, monkeypatch: pytest.MonkeyPatch, width: int = WIDTH) -> None:
        monkeypatch.setattr(evaluation, "compile_once", lambda program: program)
        self.architecture = Architecture(task, torch.device("cpu"), torch.float32)
        self.models = [self.architecture.build(seed) for seed in range(WIDTH)]
        self.rows = list(self.architecture.layout.allocate(WIDTH, torch.device("cpu")))
        extras = Extras(self.architecture.extras(self.models[0]), WIDTH)
        for slot, model in enumerate(self.models):
            self.architecture.layout.write(self.rows[slot], dict(model.named_parameters()))
        valid = ValidationData(task.validation, torch.device("cpu"), torch.float32)
        self.evaluation = Evaluation(
            self.architecture, valid, lambda slot, row: extras[slot], lambda slot: (slot, 0), width, compiled=True
        )

    def of(self, *slots: int) -> list[Any]:
        return self.evaluation.each(slots, [self.rows[slot] for slot in slots])


def test_several_slots_get_what_each_model_gets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    case = Case(task, monkeypatch)
    assert case.evaluation.rows == ROWS
    found = case.of(*range(WIDTH))
    x, y = task.valid
    for model, metrics in zip(case.models, found, strict=True):
        output = model(x)
        assert metrics["valid_loss"] == pytest.approx(task.loss(output, y).item(), rel=1e-5)
        assert metrics["valid_accuracy"] == (output.argmax(1) == y).double().mean().item()


def test_who_else_is_evaluated_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, in every place of a pass, in a second pass, beside infinite numbers."""
    case = Case(small_task(), monkeypatch)
    (expected,) = case.of(4)
    case.rows[7].fill_(torch.inf)
    for others in ([4, 0], [0, 1, 2, 4], [7, 4], [*(s for s in range(WIDTH) if s != 4), 4]):
        assert case.of(*others)[others.index(4)] == expected


def test_a_metric_that_needs_a_number_is_evaluated_slot_by_slot(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = small_task()

    def share(output: Tensor, target: Tensor) -> float:
        return float((output.argmax(1) == target).double().mean().item())

    task = Task(base.model, base.loss, base.train, base.valid, metrics={"accuracy": share})
    with caplog.at_level(logging.INFO):
        case = Case(task, monkeypatch)
    assert case.evaluation.rows == 1 and "one by one" in caplog.text
    plain = Case(base, monkeypatch, width=1)
    assert plain.evaluation.rows == 1
    assert case.of(0, 3) == plain.of(0, 3)


def test_what_a_metric_raises_is_its_passs_own_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(small_task(), monkeypatch)
    whole = case.of(*range(WIDTH))
    program = case.evaluation._program
    assert program is not None

    def failing(rows: Tensor, *rest: Any) -> Tensor:
        if bool((rows[0] == case.rows[ROWS]).all()):
            raise ValueError("no metric today")
        return program(rows, *rest)

    monkeypatch.setattr(case.evaluation, "_program", failing)
    found = case.of(*range(WIDTH))
    assert found[:ROWS] == whole[:ROWS]
    assert all("no metric today" in str(item) for item in found[ROWS:])


def test_large_models_and_eager_stacks_are_evaluated_slot_by_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Stack(small_task(), width=4, micro_batch=4, path="eager")._evaluation.rows == 1
    monkeypatch.setattr(evaluation, "STACKED_FLOPS", {"cpu": 2 * 20 * (7 * 9 + 9 * 5) - 1})
    assert Case(small_task(), monkeypatch).evaluation.rows == 1
    monkeypatch.setattr(evaluation, "STACKED_FLOPS", {"cpu": 2 * 20 * (7 * 9 + 9 * 5)})
    assert Case(small_task(), monkeypatch).evaluation.rows == ROWS


def test_slots_that_are_due_together_each_get_their_own_row() -> None:
    stack = Stack(small_task(), width=3, micro_batch=4, path="eager")
    for key in range(3):
        stack.admit(spec(key, "sgd", lr=0.1, seed=key, batch_size=4, examples=8))
    stack.tick()
    rows = [event for event in stack.tick() if event.key in range(3) and hasattr(event, "metrics")]
    assert [row.key for row in rows] == [0, 1, 2]
    assert len({row.metrics["valid_loss"] for row in rows}) == 3
