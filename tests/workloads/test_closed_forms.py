"""Workloads whose noise scale and minimum are known: the engine measures what the formulas say."""

import numpy as np
import pytest
import torch

from tuner import workloads
from tuner.engine import Row, Stack, TrialSpec
from tuner.noise import estimate_from_rows
from tuner.noise.estimator import Estimate
from tuner.workloads import linear_regression
from tuner.workloads.task import Task


def measured(task: Task, steps: int) -> Estimate:
    """At lr 0 every step measures the starting point."""
    stack = Stack(task, width=1, micro_batch=8)
    params = {"optimizer": "sgd", "lr": 0.0, "batch_size": 64}
    stack.admit(TrialSpec(1, params, 7, 64 * steps, report_every=64 * 10))
    rows = []
    while stack.busy:
        rows += [event for event in stack.tick() if isinstance(event, Row)]
    return estimate_from_rows([row.noise for row in rows if row.noise is not None], 0.99, None)


@pytest.mark.parametrize(
    ("params", "noise_scale"),
    [
        ({"dimensions": 50, "noise": 1.0}, 101.0),
        ({"dimensions": 20, "noise": 0.5, "decay": 1.0}, None),
    ],
)
def test_noise_scale_of_linear_regression(params: dict[str, float], noise_scale: float | None) -> None:
    exact = linear_regression.expected(**params)  # type: ignore[arg-type]
    assert noise_scale is None or exact.noise_scale == pytest.approx(noise_scale)
    # 65,536 examples, so that the drawn set's own moments lie within a few per cent of the expected ones.
    task = workloads.load("linear-regression", {**params, "examples": 65536})
    estimate = measured(task, 250)
    assert estimate.bounded and estimate.low <= exact.noise_scale <= estimate.high
    assert estimate.high / estimate.low < 1.7
    assert estimate.trace == pytest.approx(exact.trace, rel=0.05)
    assert estimate.grad_sq == pytest.approx(exact.grad_sq, rel=0.12)


@pytest.mark.parametrize(("noise", "start"), [(3.0, 0.5)])
def test_noise_scale_of_the_noisy_quadratic(noise: float, start: float) -> None:
    task = workloads.load("noisy-quadratic", {"noise": noise, "start": start, "dimensions": 30, "examples": 65536})
    estimate = measured(task, 250)
    exact = (noise / start) ** 2
    assert estimate.bounded and estimate.low <= exact <= estimate.high
    assert estimate.high / estimate.low < 1.7
    h = 1 / np.arange(1, 31)
    assert estimate.trace == pytest.approx(noise**2 * (h**2).sum(), rel=0.03)
    assert estimate.grad_sq == pytest.approx(start**2 * (h**2).sum(), rel=0.1)


def test_anisotropic_linear_regression_by_monte_carlo() -> None:
    """The closed form itself, against per-example gradients of independent draws in NumPy."""
    exact = linear_regression.expected(dimensions=6, noise=0.7, decay=1.5)
    generator = np.random.default_rng(5)
    x = generator.standard_normal((400_000, 6)) * np.arange(1, 7) ** -0.75
    error = -np.full(6, 6**-0.5)
    residual = x @ error - 0.7 * generator.standard_normal(len(x))
    gradients = residual[:, None] * x
    assert exact.loss == pytest.approx(0.5 * float((residual**2).mean()), rel=0.01)
    assert exact.grad_sq == pytest.approx(float((gradients.mean(0) ** 2).sum()), rel=0.03)
    assert exact.trace == pytest.approx(float(gradients.var(0).sum()), rel=0.02)


def least(task: Task, params: dict[str, object], examples: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Train in float64 and return the last validation loss and the parameters one step before."""
    stack = Stack(task, width=1, micro_batch=64, dtype=torch.float64)
    stack.admit(TrialSpec(1, {"batch_size": 64, **params}, 0, examples))  # type: ignore[dict-item]
    value, parameters = float("nan"), {}
    while stack.busy:
        parameters = {name: p.clone() for name, p in stack.parameters(0).items()} if stack.keys() else parameters
        for event in stack.tick():
            if isinstance(event, Row) and "valid_loss" in event.metrics:
                value = event.metrics["valid_loss"]
    return value, parameters


def test_minima() -> None:
    task = workloads.load("linear-regression", {"dimensions": 5, "noise": 0.0, "examples": 640})
    value, found = least(task, {"optimizer": "sgd", "lr": 0.5}, 64 * 400)
    assert value < 1e-12  # targets are rounded to float32
    torch.testing.assert_close(found["weight"], torch.full((1, 5), 5**-0.5, dtype=torch.float64), atol=1e-6, rtol=0)
    bowl = workloads.load("noisy-quadratic", {"dimensions": 5, "examples": 64})
    value, found = least(bowl, {"optimizer": "sgd", "lr": 0.9}, 64 * 400)  # the batch is the whole set
    assert value < 1e-10 and float(found["position"].abs().max()) < 1e-6
    valley = workloads.load("rosenbrock", {})
    assert float(valley.build_model(0)(torch.zeros(1, 1)).detach()) == pytest.approx(24.2)
    value, found = least(valley, {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.0}, 64 * 3000)
    assert value < 1e-6
    torch.testing.assert_close(found["position"], torch.ones(2, dtype=torch.float64), atol=2e-3, rtol=0)
