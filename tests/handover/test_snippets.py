"""Snippets run as printed, train as the stack's own rule does, and need no Tuner where torch has the same rule."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from tuner.errors import InvalidInput
from tuner.handover import snippet
from tuner.handover.optimizer_code import TORCH
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


Program = dict[str, Any]


def compare(params: dict[str, Any], code: str, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Train by the code's own `update`, and by the rule in a loop of our own, with a linear decay to 0."""
    scope = run(code)
    for x, y in DATA:
        loss = scope["update"](lambda batch: mse_loss(scope["model"](batch[0]), batch[1]), (x, y))
        assert not loss.requires_grad and loss.dim() == 0
    info = catalogue()[params["optimizer"]]
    hp = {h.name: params[h.name] for h in info.hyperparameters if h.name in params}
    model = network()
    optimizer = build(info.name, model, **hp)
    factors = [multiplier(params["schedule"], t, STEPS) for t in range(STEPS + 1)]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: factors[t])
    expected = train(model, optimizer, scheduler, info.needs_curvature)
    found = torch.cat([p.detach().flatten() for p in scope["model"].parameters()])
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("name", "odd"), [*((name, False) for name in catalogue()), *((name, True) for name in TORCH)])
def test_a_snippet_trains_as_the_rule_does(name: str, odd: bool) -> None:
    info = catalogue()[name]
    own = {h.name: off_default(h) for h in info.hyperparameters if odd and not h.treatment}
    params = configuration(name, "linear", **own)
    code = snippet(params, STEPS)
    plain = name in TORCH and params.get("line_search", "fixed") == "fixed"
    assert ("tuner" not in code) == plain
    assert info.averages == ("optimizer.eval()" in code)
    loose = {"rtol": 1e-6, "atol": 1e-8} if name == "nadam" else {}  # torch keeps the product of its momenta in float32
    compare(params, code, **loose)
    if plain:
        assert snippet(params, STEPS, only_torch=True) == code
    else:
        with pytest.raises(InvalidInput, match=r"torch\.optim.*without it, tuner\.optimizers\.build"):
            snippet(params, STEPS, only_torch=True)


TREATED: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"clip_norm": 0.3}),
    ("adam", {"clip_norm": 0.5, "clip_value": 0.05}),
    ("sgd", {"clip_value": 0.02, "moment_warmup": 0}),
    ("momentum", {"moment_warmup": 4}),
    ("adamw", {"moment_warmup": 3, "clip_norm": 0.2}),
    ("adam", {"weight_decay": 0.1, "weight_decay_mode": "decoupled"}),
    ("amsgrad", {"weight_decay": 0.1, "weight_decay_mode": "decoupled"}),
    ("adamw", {"weight_decay": 0.1, "weight_decay_mode": "l2"}),
    ("nadam", {"weight_decay": 0.1, "weight_decay_mode": "decoupled"}),
]


@pytest.mark.parametrize(("name", "own"), TREATED)
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_treatments_that_torch_has_a_word_for_are_plain_torch(name: str, own: dict[str, Any], schedule: str) -> None:
    params = configuration(name, schedule, **{"warmup": 0.0, "lr": 0.05, **own} if schedule == "constant" else own)
    if schedule == "linear":
        params["lr"] = 0.05
    code = snippet(params, STEPS)
    assert "tuner" not in code
    compare(params, code, **({"rtol": 1e-6, "atol": 1e-8} if name == "nadam" else {}))


ONLY_OURS: list[tuple[str, dict[str, Any], str]] = [
    ("muon", {}, "torch.optim.Muon takes 2-D parameters only and rounds them to bfloat16"),
    ("lion", {}, "torch.optim has no lion"),
    ("adam", {"eps_placement": "inside"}, "torch.optim has adam, but not with eps_placement=inside"),
    ("sgd", {"weight_decay_mode": "decoupled"}, "torch.optim has sgd, but not with weight_decay_mode=decoupled"),
    ("adamw", {"weight_decay_mode": "independent"}, "but not with weight_decay_mode=independent"),
    ("adamw", {"weight_decay_roles": "no_vectors"}, "torch.optim knows no roles, which weight_decay_roles needs"),
]


@pytest.mark.parametrize(("name", "own", "why"), ONLY_OURS)
def test_what_only_tuner_does_is_built_by_tuner_or_refused_in_a_sentence(
    name: str, own: dict[str, Any], why: str
) -> None:
    params = configuration(name, "linear", **own)
    code = snippet(params, STEPS)
    for key, value in own.items():
        assert f"{key}={value!r}" in code
    assert "tuner.optimizers.build" in code
    compare(params, code)
    with pytest.raises(InvalidInput, match=re.escape(why)) as caught:
        snippet(params, STEPS, only_torch=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adamw", "lbfgs", "newton_cg"])
def test_micro_batches_are_kept_where_the_loss_depends_on_them(name: str) -> None:
    """With a loss that is not additive in its examples, the mean over parts differs from the whole."""

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (model(batch[0]).mean() - batch[1].mean()) ** 2

    params = configuration(name, "constant", warmup=0.0, **({"line_search": "fixed"} if name == "lbfgs" else {}))
    moved = []
    for program in ({"batch_dependent": True, "micro_batch": 2}, {"batch_dependent": True, "micro_batch": "whole"}, {}):
        scope = run(snippet(params, STEPS, program))
        scope["update"](lambda batch, scope=scope: loss_of(scope["model"], batch), DATA[0])
        moved.append(torch.cat([p.detach().flatten() for p in scope["model"].parameters()]))
    model = network()
    hp = {h.name: params[h.name] for h in catalogue()[name].hyperparameters if h.name in params}
    optimizer = build(name, model, **hp)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        parts = zip(DATA[0][0].split(2), DATA[0][1].split(2), strict=True)
        loss = torch.stack([loss_of(model, part) for part in parts]).mean()
        if name != "newton_cg":
            loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    expected = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(moved[0], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(moved[1], moved[2]) and not torch.allclose(moved[0], moved[1], rtol=1e-6)


def test_precision_is_written_as_it_was_trained() -> None:
    params = configuration("sgd", "constant", warmup=0.0)
    seen = []

    def loss_of(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return mse_loss(scope["model"](batch[0]), batch[1])

    for program in ({"precision": "bf16"}, {}):
        scope = run(snippet(params, STEPS, program))
        scope["update"](loss_of, DATA[0])
    assert seen == [True, False]
    assert "allow_tf32 = True" in snippet(params, STEPS, {"precision": "tf32"})
    assert "tf32" not in snippet(params, STEPS)


def test_a_workloads_own_parameters_are_told() -> None:
    code = snippet(configuration("sgd", "constant", warmup=0.0, **{"workload.hidden": 64}), STEPS)
    assert "# workload: hidden=64\n" in code


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


def test_a_snippet_reads_as_a_person_would_write_it() -> None:
    code = snippet(configuration("adamw", "cosine", lr=0.003, warmup=0.05), 625)
    assert (
        code
        == '''import math

import torch

# model: your network, in training mode
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


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)


def update(loss_of, batch):
    """Make one update with 8 examples; loss_of(batch) is the mean loss of the model on them."""
    optimizer.zero_grad()
    loss = loss_of(batch)
    loss.backward()
    optimizer.step()
    scheduler.step()
    return loss.detach()'''
    )
    assert not re.search("import math|lr_factor|scheduler", snippet(configuration("sgd", "constant"), 5))
