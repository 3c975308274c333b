"""The gradient noise scale that a trial reports agrees with the exact one, from per-example gradients."""

import torch
from engine_cases import run_until_idle, solo_model
from torch.func import functional_call, grad, vmap

from tuner.engine import Stack, TrialSpec
from tuner.noise import estimate_from_rows
from tuner.workloads import Task, load


def exact(task: Task, seed: int) -> tuple[float, float]:
    """Return tr Sigma (with the N - 1 convention) and |G|^2 over all training examples."""
    model = solo_model(task, seed, torch.float64)
    params = {name: p.detach() for name, p in model.named_parameters()}
    x, y = task.train[0].double(), task.train[1]

    def loss(params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return task.loss(functional_call(model, params, (x[None],)), y[None])

    gradients = vmap(grad(loss), (None, 0, 0))(params, x, y)
    flat = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    mean = flat.mean(0)
    return float(((flat - mean) ** 2).sum() / (len(flat) - 1)), float(mean @ mean)


def test_noise_scale_at_initialisation_agrees_with_per_example_gradients() -> None:
    """At lr 0 every step measures the same point, so the interval must hold the exact value."""
    task = load("digits-mlp", {})
    params = {"optimizer": "sgd", "lr": 0.0, "batch_size": 64}
    stack = Stack(task, width=1, micro_batch=8)
    rows, _ = run_until_idle(stack, [TrialSpec(1, params, 7, 64 * 200, report_every=64 * 4)])
    sums = [row.noise for row in rows[1] if row.noise is not None]
    assert sum(row.n for row in sums) == 200
    estimate = estimate_from_rows(sums, 0.99, task.examples)
    trace, grad_sq = exact(task, 7)
    assert estimate.bounded
    assert estimate.low <= trace / grad_sq <= estimate.high
    assert estimate.high / estimate.low < 3
    assert abs(estimate.trace / trace - 1) < 0.1
    assert abs(estimate.grad_sq / grad_sq - 1) < 0.3
