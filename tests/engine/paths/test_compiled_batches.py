"""A compiled stack takes named inputs and a loss that the model computes, with the bits that the stack promises."""

from typing import Any

import pytest
import torch
from engine_cases import run_until_idle, spec
from input_kinds import task_of

from tuner.engine import Stack, TrialSpec

WATCHED = spec(100, "adamw", lr=3e-3, batch_size=8, examples=96, rungs=(40,), report_every=8)


def course(path: str, *others: TrialSpec) -> list[dict[str, Any]]:
    stack = Stack(task_of("the model's loss"), width=3, micro_batch=4, path=path)
    assert stack.path == path
    assert (stack._evaluation.rows > 1) == (path == "compiled"), "chunks that fit are evaluated together"
    rows, _ = run_until_idle(stack, [*others, WATCHED])
    stack.close()
    return [dict(row.metrics) for row in rows[100]]


def test_named_inputs_and_the_models_own_loss_are_compiled() -> None:
    expected = course("compiled")
    assert course("compiled", spec(1, "adamw", lr=1e30, examples=400, divergence_factor=1e30)) == expected
    for found, eager in zip(expected, course("eager"), strict=True):
        assert found == pytest.approx(eager, rel=1e-4)
    assert torch.is_grad_enabled()
