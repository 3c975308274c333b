"""The meter in an ordinary accumulation loop, against per-example gradients computed one by one."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.noise import Meter, NoiseScale

MICRO_BATCH, COUNT, STEPS = 3, 4, 6


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(STEPS, COUNT, MICRO_BATCH, 5), torch.randint(3, (STEPS, COUNT, MICRO_BATCH))


def reference(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Trace of Sigma (Bessel, from micro-batch means) and the U-statistic for |G|^2, from single examples."""
    examples = []
    for xi, yi in zip(x.reshape(-1, 5), y.reshape(-1), strict=True):
        loss = nn.functional.cross_entropy(model(xi[None]), yi[None])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        examples.append(torch.cat([g.flatten() for g in grads]).double().numpy())
    means = np.array(examples).reshape(COUNT, MICRO_BATCH, -1).mean(1)
    trace = MICRO_BATCH * np.cov(means.T, ddof=1).trace()
    products = means @ means.T
    return trace, (products.sum() - products.trace()) / (COUNT * (COUNT - 1))


def train(model: nn.Module, meter: Meter, data: tuple[torch.Tensor, torch.Tensor], divided: bool) -> list[tuple]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    for x, y in zip(*data, strict=True):
        expected.append(reference(model, x, y))
        for xk, yk in zip(x, y, strict=True):
            loss = nn.functional.cross_entropy(model(xk), yk)
            (loss / COUNT if divided else loss).backward()
            meter.micro(model.parameters())
        meter.step()
        optimizer.step()
        optimizer.zero_grad()
    return expected


@pytest.mark.parametrize("divided", [True, False])
def test_against_single_examples(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], divided: bool) -> None:
    meter = Meter(MICRO_BATCH, divided=divided)
    expected = train(model, meter, data, divided)
    estimate = meter.estimate()
    assert estimate.steps == STEPS
    assert estimate.trace == pytest.approx(np.mean([trace for trace, _ in expected]), rel=1e-4)
    assert estimate.grad_sq == pytest.approx(np.mean([grad_sq for _, grad_sq in expected]), rel=1e-4)


def test_gradients_are_left_alone(model: nn.Module) -> None:
    loss: Callable[[], torch.Tensor] = lambda: model(torch.ones(2, 5)).square().mean()  # noqa: E731
    meter = Meter(2)
    for _ in range(3):
        loss().backward()
        meter.micro(model.parameters())
    meter.step()
    measured = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for _ in range(3):
        loss().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(measured, model.parameters(), strict=True))


def test_missing_gradients_count_as_zero() -> None:
    used, unused, late = (nn.Parameter(torch.ones(2)) for _ in range(3))
    meter, by_hand = Meter(1), NoiseScale()
    for _ in range(3):
        (used.sum() / 2).backward()
        meter.micro([used, unused, late])
        ((used.sum() + 3 * late.sum()) / 2).backward()
        meter.micro([used, unused, late])
        meter.step()
        used.grad = late.grad = None
        by_hand.add(small=(2 + 2 + 18) / 2, big=2 + 18 / 4, micro_batch=1, count=2)
    assert meter.estimate().trace == pytest.approx(by_hand.estimate().trace)
    assert meter.estimate().grad_sq == pytest.approx(by_hand.estimate().grad_sq)


def test_overflowed_steps_are_skipped_whole() -> None:
    parameter = nn.Parameter(torch.ones(2))
    meter = Meter(1)
    for factor in (1.0, float("inf"), 1.0, float("nan"), 1.0):
        for _ in range(2):
            (parameter.sum() * factor).backward()
            meter.micro([parameter])
        meter.step()
        parameter.grad = None
    assert (meter.skipped, meter.estimate().steps) == (2, 3)


def test_a_step_needs_two_micro_batches(model: nn.Module) -> None:
    meter = Meter(4)
    model(torch.ones(2, 5)).sum().backward()
    meter.micro(model.parameters())
    with pytest.raises(InvalidInput, match="called 1 times"):
        meter.step()
    with pytest.raises(InvalidInput, match="called 0 times"):
        meter.step()
    with pytest.raises(InvalidInput, match="micro_batch"):
        Meter(0)


def test_estimators_import_neither_torch_nor_the_servers_libraries() -> None:
    code = (
        "import sys, tuner.noise; "
        "sys.exit(','.join({'torch', 'pydantic', 'scipy', 'optuna', 'fastapi', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""
    )
