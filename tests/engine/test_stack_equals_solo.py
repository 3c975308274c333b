"""In float64 a stack of mixed rules and batch sizes is each trial alone with an independent optimizer, to 1e-12."""

import math
from collections.abc import Callable

import pytest
import torch
from engine_cases import batches, small_task, solo_model, spec
from torch import nn

from tuner.engine import Ended, Stack, TrialSpec
from tuner.workloads import Task

STEPS = 200
TOTAL = STEPS + 1
TRIALS = [
    spec(0, "sgd", lr=0.1, weight_decay=1e-3, batch_size=4),
    spec(1, "momentum", lr=0.02, momentum=0.8, batch_size=8),
    spec(2, "nesterov", lr=0.02, momentum=0.85, weight_decay=1e-3, batch_size=16),
    spec(3, "adamw", lr=2e-3, beta1=0.85, beta2=0.99, weight_decay=0.1, batch_size=12),
    spec(4, "muon", lr=5e-3, momentum=0.9, weight_decay=0.05, batch_size=8),
    spec(5, "adamw", lr=1e-3, batch_size=4, seed=3),
    spec(6, "muon", lr=1e-2, batch_size=12, seed=4, schedule="cosine", warmup=0.1),
    spec(7, "sgd", lr=0.2, batch_size=8, seed=5, schedule="linear", floor=0.1),
]


def longer_by_one_step(trial: TrialSpec) -> TrialSpec:
    """The engine frees a slot with its last step, so parameters are compared one step earlier."""
    return TrialSpec(trial.key, trial.params, trial.seed, TOTAL * trial.batch_size, report_every=10**9)


def solo(task: Task, trial: TrialSpec) -> dict[str, torch.Tensor]:
    """Train one model alone: full batches, torch.optim (a literal loop for Muon), the schedule by its formula."""
    model = solo_model(task, trial.seed, torch.float64)
    params = dict(trial.params)
    lr = float(params.pop("lr"))
    step_with = optimizer(model, str(params["optimizer"]), params)
    for t, (x, y) in enumerate(batches(task, trial.seed, trial.batch_size, torch.float64, STEPS)):
        model.zero_grad()
        task.loss(model(x), y).backward()
        step_with(lr * factor(t, params))
    return {name: p.detach() for name, p in model.named_parameters()}


def factor(t: int, params: dict[str, object]) -> float:
    name, warm = params.get("schedule", "constant"), float(params.get("warmup", 0.05)) * TOTAL  # type: ignore[arg-type]
    if name == "constant":
        return 1.0
    rise, q = min(1.0, (t + 1) / warm), max(0.0, (t - warm) / (TOTAL - warm))
    floor = float(params.get("floor", 0.0))  # type: ignore[arg-type]
    return rise * (floor + (1 - floor) * ((1 - q) if name == "linear" else (1 + math.cos(math.pi * q)) / 2))


def optimizer(model: nn.Module, name: str, params: dict[str, object]) -> Callable[[float], None]:
    given = {key: params[key] for key in ("weight_decay", "momentum") if key in params}
    if name == "muon":
        return literal_muon(model, **given)  # type: ignore[arg-type]
    torch_optimizer: torch.optim.Optimizer
    if name == "adamw":
        betas = (params.get("beta1", 0.9), params.get("beta2", 0.999))
        torch_optimizer = torch.optim.AdamW(model.parameters(), betas=betas, **given)  # type: ignore[arg-type]
    else:
        torch_optimizer = torch.optim.SGD(model.parameters(), nesterov=name == "nesterov", **given)  # type: ignore[arg-type]

    def step(lr: float) -> None:
        torch_optimizer.param_groups[0]["lr"] = lr
        torch_optimizer.step()

    return step


def literal_muon(model: nn.Module, momentum: float = 0.95, weight_decay: float = 0.1) -> Callable[[float], None]:
    """Muon on the first weight; AdamW at 0.3 lr for the head and the biases."""
    named = list(model.named_parameters())
    matrix, rest = named[0][1], [p for _, p in named[1:]]
    fallback = torch.optim.AdamW(rest, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    buffer = torch.zeros_like(matrix)

    def step(lr: float) -> None:
        nonlocal buffer
        with torch.no_grad():
            assert matrix.grad is not None
            buffer = momentum * buffer + (1 - momentum) * matrix.grad
            u = (1 - momentum) * matrix.grad + momentum * buffer
            tall = u.shape[0] > u.shape[1]
            x = u.T if tall else u
            x = x / max(float(x.norm()), 1e-7)
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            u = x.T if tall else x
            matrix.mul_(1 - lr * weight_decay)
            matrix.sub_(lr * math.sqrt(max(1.0, u.shape[0] / u.shape[1])) * u)
        fallback.param_groups[0]["lr"] = 0.3 * lr
        fallback.step()

    return step


@pytest.mark.parametrize(("path", "trials"), [("eager", TRIALS), ("loop", TRIALS[:5]), ("compiled", TRIALS)])
@pytest.mark.parametrize("per_tick", [1, 2])
def test_stack_equals_solo_runs(path: str, trials: list[TrialSpec], per_tick: int) -> None:
    """Rules and batch sizes change hands in a slot, and one rule steps trials of several batch sizes together."""
    task = small_task()
    stack = Stack(task, width=5, micro_batch=4 // per_tick, per_tick=per_tick, dtype=torch.float64, path=path)
    assert stack.path == path
    queue = [longer_by_one_step(trial) for trial in trials]
    ticks: dict[int, int] = {}
    checked = set()
    while queue or stack.busy:
        while queue and stack.free:
            stack.admit(queue.pop(0))
        keys = [key for key in stack.keys() if isinstance(key, int)]
        for event in stack.tick():
            assert not isinstance(event, Ended) or (event.outcome, event.step) == ("finished", STEPS + 1)
        for key in keys:
            ticks[key] = ticks.get(key, 0) + 1
            if ticks[key] == STEPS * TRIALS[key].batch_size // 4:
                slot = stack.slot_of(key)
                assert slot is not None
                expected = solo(task, TRIALS[key])
                for name, value in stack.parameters(slot).items():
                    torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12, msg=f"{key} {name}")
                checked.add(key)
    assert checked == {trial.key for trial in trials}
