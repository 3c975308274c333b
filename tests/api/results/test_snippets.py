"""Snippets run as printed, train as the stack's own rule does, and need no Tuner where torch has the same rule."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from api.results.snippets import TORCH, snippet
from tuner.optimizers import build, catalogue
from tuner.schedules import catalogue as schedules
from tuner.schedules import multiplier
from tuner.study.hyperparameter import Hyperparameter

STEPS = 12
GENERATOR = torch.Generator().manual_seed(0)
DATA = [
    (torch.randn(8, 4, generator=GENERATOR, dtype=torch.float64), torch.randn(8, 3, generator=GENERATOR).double())
    for _ in range(STEPS)
]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3)).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, curved: bool) -> torch.Tensor:
    for x, y in DATA:

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = mse_loss(model(x), y)
            if not curved:
                loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        if scheduler is not None:
            scheduler.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def configuration(optimizer: str, schedule: str, **own: Any) -> dict[str, Any]:
    """All that a trial's configuration holds: treatments only where they are named."""
    params = {h.name: h.default for h in catalogue()[optimizer].hyperparameters if not h.treatment}
    numbers = {p.name: p.default for p in schedules()[schedule].parameters}
    return {"optimizer": optimizer, "batch_size": 8, "schedule": schedule, **params, **numbers, **own}


def run(code: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"model": network()}
    exec(compile(code, "snippet", "exec"), scope)
    return scope


def off_default(h: Hyperparameter) -> Any:
    """Another legal value, so that no argument can be lost unseen."""
    odd = {"lr": 0.01, "weight_decay": 0.05, "centered": "yes", "line_search": "fixed", "history": 5, "iterations": 3}
    odd |= {"max_evaluations": 4, "beta1": 0.8, "beta2": 0.9, "eps": 1e-5, "eps1": 1e-9, "eps2": 1e-2, "alpha": 0.9}
    odd |= {"momentum": 0.7, "dampening": 0.2, "lr_decay": 0.1, "momentum_decay": 0.02, "beta2_decay": -0.6}
    odd |= {"initial_accumulator_value": 0.3, "clip_threshold": 1.3}
    return odd.get(h.name, h.default)


@pytest.mark.parametrize(("name", "odd"), [*((name, False) for name in catalogue()), *((name, True) for name in TORCH)])
def test_a_snippet_trains_as_the_rule_does(name: str, odd: bool) -> None:
    info = catalogue()[name]
    own = {h.name: off_default(h) for h in info.hyperparameters if odd and not h.treatment}
    params = configuration(name, "linear", **own)
    code = snippet(params, STEPS)
    scope = run(code)
    plain = name in TORCH and params.get("line_search", "fixed") == "fixed"
    assert ("tuner" not in code) == plain
    curved = name == "newton_cg"
    found = train(scope["model"], scope["optimizer"], scope["scheduler"], curved)
    model = network()
    hp = {h.name: params[h.name] for h in info.hyperparameters if h.name in params}
    optimizer = build(name, model, **hp)
    factors = [multiplier("linear", t, STEPS) for t in range(STEPS + 1)]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: factors[t])
    expected = train(model, optimizer, scheduler, curved)
    atol = 1e-8 if name == "nadam" else 1e-10  # torch keeps the product of its momenta in float32
    torch.testing.assert_close(found, expected, rtol=1e-9 if name != "nadam" else 1e-6, atol=atol)


FORMS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in schedules()),
    *((name, {"warmup": 0.0}) for name in schedules() if name != "one_cycle"),
    *((name, {"floor": 0.07}) for name in ("linear", "cosine", "wsd", "polynomial")),
    ("constant", {"warmup": 0.1}),
    ("cosine", {"cycles": 3, "cycle_growth": 1.5}),
    ("polynomial", {"power": 2.5}),
    *(("wsd", {"cooldown_shape": shape, "cooldown": 0.43}) for shape in ("1-sqrt", "cosine")),
    ("one_cycle", {"rise": 0.001}),
]


@pytest.mark.parametrize(("name", "numbers"), FORMS)
def test_a_schedule_is_written_as_it_is(name: str, numbers: dict[str, Any]) -> None:
    given = {p.name: p.default for p in schedules()[name].parameters} | numbers
    for total in (1, 7, 100, 1001):
        scope = run(snippet(configuration("sgd", name, **given), total))
        factor = scope.get("lr_factor", lambda t: 1.0)
        for t in {0, 1, total // 3, total // 2, 3 * total // 4, total - 1, total, total + 5}:
            assert factor(t) == pytest.approx(multiplier(name, t, total, **given), rel=1e-9, abs=1e-12), (t, total)


def test_what_only_tuner_does_is_built_by_tuner() -> None:
    for own in ({"clip_norm": 1.0}, {"weight_decay_mode": "decoupled"}, {"eps_placement": "inside"}):
        code = snippet(configuration("adam", "constant", warmup=0.0, **own), 10)
        ((name, value),) = own.items()
        assert f"{name}={value!r}" in code and "tuner.optimizers.build" in code
        run(code)


def test_a_snippet_reads_as_a_person_would_write_it() -> None:
    code = snippet(configuration("adamw", "cosine", lr=0.003, warmup=0.05), 625)
    assert (
        code
        == '''import math

import torch

# model: your network. For every batch: optimizer.step(), then scheduler.step().
batch_size = 8
total_steps = 625  # updates of the whole run
optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=0.003,
    betas=(0.9, 0.999),
    eps=1e-08,
    weight_decay=0.01,
)


def lr_factor(t):
    """Return the factor of the learning rate after t updates: schedule cosine."""
    warmup = 0.05 * total_steps
    progress = min(1, max(0, (t - warmup) / (total_steps - warmup)))
    return min(1, (t + 1) / max(1, warmup)) * ((1 + math.cos(math.pi * progress)) / 2)


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)'''
    )
    assert not re.search("import math|def|scheduler", snippet(configuration("sgd", "constant"), 5))
