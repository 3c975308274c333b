"""What a stack found holds in a plain training loop with `tuner.optimizers.build`: the snippet to paste is true."""

import math
from typing import Any

import pytest
import torch
from engine_cases import batches, run_until_idle, solo_model, spec
from torch.nn.functional import cross_entropy

from tuner.engine import Stack
from tuner.optimizers import build, catalogue
from tuner.schedules import multiplier
from tuner.study.catalogue import BUILT_IN_METRICS
from tuner.workloads import Task, load

EXAMPLES = 3000


def plain_loop(task: Task, params: dict[str, Any], seed: int) -> float:
    """Train with torch's own machinery and return the validation loss."""
    batch_size, schedule = params["batch_size"], params["schedule"]
    names = {h.name for h in catalogue()[params["optimizer"]].hyperparameters}
    model = solo_model(task, seed, torch.float32)
    optimizer = build(params["optimizer"], model, **{k: v for k, v in params.items() if k in names})
    total = EXAMPLES // batch_size
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: float(multiplier(schedule, min(t, total), total))
    )
    for x, y in batches(task, seed, batch_size, torch.float32, total):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        x, y = task.valid
        return float(cross_entropy(model(x), y))


def stacked(task: Task, trials: list[tuple[dict[str, Any], int]]) -> list[float]:
    """Train all in one stack and return their validation losses; infinite where one diverged."""
    stack = Stack(task, width=16, micro_batch=8)
    specs = [
        spec(i, p["optimizer"], examples=EXAMPLES, seed=seed, **{k: v for k, v in p.items() if k != "optimizer"})
        for i, (p, seed) in enumerate(trials)
    ]
    rows, ends = run_until_idle(stack, specs)
    finals = [rows[i][-1].metrics.get("valid_loss", math.inf) if i in rows else math.inf for i in range(len(trials))]
    return [math.inf if ends[i].infeasible else value for i, value in enumerate(finals)]


@pytest.fixture(scope="module")
def digits() -> Task:
    return load("digits-mlp", {})


def test_a_tame_configuration_gives_the_same_loss_to_1e_5(digits: Task) -> None:
    tame = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0, "batch_size": 32, "schedule": "cosine"}
    (value,) = stacked(digits, [(tame, 0)])
    assert value == pytest.approx(plain_loop(digits, tame, 0), abs=1e-5)


def test_the_winner_trained_again_lands_within_its_seed_spread(digits: Task) -> None:
    rates = {
        "sgd": (0.03, 0.3),
        "momentum": (0.01, 0.1),
        "nesterov": (0.01, 0.1),
        "adamw": (3e-3, 2e-2),
        "muon": (0.02, 0.08),
    }
    candidates = [
        {"optimizer": name, "lr": lr, "batch_size": size, "schedule": "linear"}
        for name, pair in rates.items()
        for lr in pair
        for size in (16, 64)
    ]
    values = stacked(digits, [(candidate, 0) for candidate in candidates])
    winner = candidates[values.index(min(values))]
    spread = stacked(digits, [(winner, seed) for seed in range(5)])
    mean = sum(spread) / 5
    deviation = math.sqrt(sum((v - mean) ** 2 for v in spread) / 4)
    assert min(values) == spread[0]
    assert abs(plain_loop(digits, winner, 0) - mean) <= 3 * deviation
    assert deviation < 0.5 * mean


def test_the_built_in_workload_reports_what_the_server_says_it_does(digits: Task) -> None:
    rows, _ = run_until_idle(
        Stack(digits, width=1, micro_batch=16), [spec(0, "sgd", examples=64, lr=0.01, report_every=16, rungs=(32,))]
    )
    assert {name for row in rows[0] for name in row.metrics} == set(BUILT_IN_METRICS["digits-mlp"])
