"""Every row and every parameter starts at a multiple of 64 bytes, and views are the buffer itself."""

import math

import pytest
import torch
from engine_cases import run_until_idle, small_task, spec

from tuner.engine import Stack
from tuner.engine.layout import ALIGNMENT_BYTES, Layout
from tuner.optimizers import catalogue

SHAPES = {"weight": torch.Size([3, 5]), "scale": torch.Size([]), "bias": torch.Size([17])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alignment_and_views(dtype: torch.dtype) -> None:
    layout = Layout(SHAPES, dtype)
    flat = layout.allocate(4, torch.device("cpu"))
    values = {name: torch.randn(shape, dtype=dtype) for name, shape in SHAPES.items()}
    layout.write(flat[2], values)
    for name, view in layout.views(flat).items():
        assert view.shape == (4, *SHAPES[name])
        assert torch.equal(view[2], values[name])
        assert all(row.data_ptr() % ALIGNMENT_BYTES == 0 for row in view)
    assert {name: view.shape for name, view in layout.slot_views(flat[2]).items()} == SHAPES
    assert float(flat.abs().sum()) == pytest.approx(float(sum(value.abs().sum() for value in values.values())))


def rules_that_allow_no_eps() -> list[str]:
    with_eps = [(name, h) for name, rule in catalogue().items() for h in rule.hyperparameters if h.name == "eps"]
    return [name for name, eps in with_eps if eps.low == 0 and not eps.low_open]


@pytest.mark.parametrize("name", rules_that_allow_no_eps())
def test_padding_stays_zero_and_no_healthy_trial_diverges(name: str) -> None:
    """With eps 0 a rule that steps whole rows divides 0 by 0 in the padding."""
    stack = Stack(small_task(), width=2, micro_batch=8)
    trials = [spec(1, name, eps=0.0, lr=1e-4, examples=64), spec(2, "sgd", lr=0.1, examples=10**6)]
    for trial in trials:
        stack.admit(trial)
    real = stack._architecture.layout.real
    for _ in range(7):
        stack.tick()
        state = [stack._params, *stack._updates.slabs]
        assert all(bool((tensor[:, ~real] == 0).all()) for tensor in state)
    rows, ends = run_until_idle(stack, [], until=1)
    assert ends[1].infeasible is None and math.isfinite(rows[1][-1].metrics["valid_loss"])


def test_only_parameters_are_tested_for_being_finite() -> None:
    stack = Stack(small_task(), width=1, micro_batch=16)
    stack.admit(spec(1, "muon", lr=0.01, examples=16))
    stack._params[:, ~stack._architecture.layout.real] = math.nan
    assert run_until_idle(stack, [])[1][1].infeasible is None
