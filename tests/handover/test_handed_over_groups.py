"""Parameter groups in what is handed over: the code runs as printed, and trains as the rule with these groups does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_snippets import DATA, STEPS, configuration, run, train
from test_train_file import executed, stacked, trained
from torch import nn
from torch.nn.functional import mse_loss

from tuner import workloads
from tuner.handover import snippet, train_file
from tuner.handover.optimizer_code import TORCH
from tuner.optimizers import build, catalogue
from tuner.schedules import multiplier
from tuner.study.parameter_groups import refusal

HONOURING = [name for name, info in catalogue().items() if info.parameter_groups]


def grouped(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same groups as a configuration has them and as `build` takes them."""
    groups: list[dict[str, Any]] = [{"match": "3.*", "lr_factor": 2.0}, {"depth_decay": 0.7}]
    if refusal(catalogue()[name], "weight_decay_factor") is None:
        groups.append({"match": "*.bias", "weight_decay_factor": 0.5})
    named = {f"group.g{i}.{key}": value for i, group in enumerate(groups) for key, value in group.items()}
    return {"group.g1.match": "*", **named}, groups


@pytest.mark.parametrize("name", HONOURING)
def test_a_snippet_with_groups_trains_as_the_rule_does(name: str) -> None:
    params, groups = grouped(name)
    own = {"weight_decay": 0.1} if catalogue()[name].hyperparameter("weight_decay") else {}
    lr = {"scion": 1e-3}.get(name, 0.01)
    params = configuration(name, "linear", **params, **own, lr=lr)
    code = snippet(params, STEPS)
    assert ("tuner" not in code) == (name in TORCH)
    assert name not in TORCH or snippet(params, STEPS, only_torch=True) == code
    scope = run(code)
    for x, y in DATA:
        scope["update"](lambda batch: mse_loss(scope["model"](batch[0]), batch[1]), (x, y))
    model = run("import torch")["model"]
    hp = {h.name: params[h.name] for h in catalogue()[name].hyperparameters if h.name in params}
    optimizer = build(name, model, groups=groups, **hp)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: float(multiplier("linear", t, STEPS)))
    expected = train(model, optimizer, scheduler, False)
    found = torch.cat([p.detach().flatten() for p in scope["model"].parameters()])
    loose = {"rtol": 1e-6, "atol": 1e-8} if name == "nadam" else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(found, expected, **loose)
    rates = sorted({group["lr"] for group in scope["optimizer"].param_groups})
    assert rates == sorted({group["lr"] for group in optimizer.param_groups}) and len(rates) <= 3


def test_each_class_has_a_group_of_torchs_own() -> None:
    params, _ = grouped("adamw")
    scope = run(snippet(configuration("adamw", "constant", **params, lr=0.01, weight_decay=0.1, warmup=0.0), STEPS))
    assert isinstance(scope["model"], nn.Module)
    names = {id(p): name for name, p in scope["model"].named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in scope["optimizer"].param_groups
        for p in group["params"]
    }
    assert found == {
        "0.weight": (pytest.approx(0.01 * 0.49), 0.1),
        "0.bias": (pytest.approx(0.01 * 0.49), 0.05),
        "2.weight": (pytest.approx(0.01 * 0.7), 0.1),
        "2.bias": (pytest.approx(0.01 * 0.7), 0.05),
        "3.weight": (0.02, 0.1),
        "3.bias": (0.02, 0.05),
    }


@pytest.mark.parametrize("name", ["momentum", "muon"])
def test_the_file_trains_with_the_groups_of_the_trial(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [key for key, _ in workloads.load("digits-mlp", {}).build_model(0).named_parameters()]
    groups = {"group.head.match": names[-2].replace("weight", "*"), "group.head.lr_factor": 8.0}
    groups |= {"group.depth.match": "*", "group.depth.depth_decay": 0.3}
    params = configuration(name, "cosine", lr=0.005, **groups)
    (row,) = stacked(workloads.load("digits-mlp", {}), params, [7], 8)
    without = {key: value for key, value in params.items() if not key.startswith("group.")}
    (plain,) = stacked(workloads.load("digits-mlp", {}), without, [7], 8)
    path = tmp_path / "train.py"
    path.write_text(train_file(trained(params, "digits-mlp", {}, seed=7)))
    found = executed(path, capsys)["valid_loss"]
    assert found == pytest.approx(row.metrics["valid_loss"], rel=1e-3)
    assert found != pytest.approx(plain.metrics["valid_loss"], rel=1e-2)
