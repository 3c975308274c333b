"""The file that trains a trial again runs as printed, and arrives where the trial of a stack did."""

import os
import runpy
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import input_kinds
import pytest
import torch
from engine_cases import run_until_idle

from tuner import workloads
from tuner.engine import Row, Stack, TrialSpec, solo
from tuner.handover import Trained, train_file
from tuner.optimizers import catalogue
from tuner.schedules import catalogue as schedules
from tuner.workloads import Task

EXAMPLES = 2000


def configuration(optimizer: str, schedule: str, **own: Any) -> dict[str, Any]:
    params = {h.name: h.default for h in catalogue()[optimizer].hyperparameters if not h.treatment}
    numbers = {p.name: p.default for p in schedules()[schedule].parameters}
    return {"optimizer": optimizer, "batch_size": 32, "schedule": schedule, **params, **numbers, **own}


def stacked(task: Task, params: dict[str, Any], seeds: list[int], micro_batch: int, batch: Any = None) -> list[Row]:
    """Train with several seeds in one stack; return the last rows."""
    stack = Stack(task, width=len(seeds), micro_batch=micro_batch, batch=batch)
    specs = [TrialSpec(seed, params, seed, EXAMPLES, report_every=EXAMPLES) for seed in seeds]
    rows, ends = run_until_idle(stack, specs)
    assert all(end.infeasible is None and end.error is None for end in ends.values())
    return [rows[seed][-1] for seed in seeds]


def trained(params: dict[str, Any], workload: str, program: dict[str, Any], **more: Any) -> Trained:
    given: dict[str, Any] = {"study": "mine", "number": 3, "seed": 1, "workload_params": {}, **more}
    return Trained(
        params=params,
        total_steps=EXAMPLES // params["batch_size"],
        workload=workload,
        program=program,
        **given,
    )


def executed(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    runpy.run_path(str(path), run_name="__main__")
    return {name: float(value) for name, value in (line.split() for line in capsys.readouterr().out.splitlines())}


def check(
    params: dict[str, Any], workload: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: bool = False
) -> None:
    """Compare with the trial of the same seed, by the spread over five seeds."""
    task = workloads.load(workload, {})
    micro_batch = params["batch_size"] if whole else params["batch_size"] // 2
    rows = stacked(task, params, [1, 2, 3, 4, 5], micro_batch, "whole" if whole else None)
    program = {"batch_dependent": True, "micro_batch": "whole"} if whole else {"micro_batch": micro_batch}
    path = tmp_path / "train.py"
    path.write_text(train_file(trained(params, workload, program)))
    found = executed(path, capsys)
    assert set(found) == {name for name in rows[0].metrics if name.startswith("valid_")}
    for name, value in found.items():
        spread = statistics.stdev(row.metrics[name] for row in rows)
        assert abs(value - rows[0].metrics[name]) <= 2 * spread, (name, value, rows[0].metrics[name], spread)


CASES: dict[str, dict[str, Any]] = {
    "a matrix rule": configuration("muon", "wsd", lr=0.02),
    "clipping": configuration("adamw", "cosine", lr=5e-3, clip_norm=0.5, moment_warmup=2),
    "a line search": configuration("lbfgs", "constant", warmup=0.0, lr=0.5, batch_size=500),
    "an average": configuration("schedule_free_adamw", "constant", warmup=0.05, lr=1e-2),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_arrives_where_the_trial_did(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(CASES[case], "digits-mlp", tmp_path, capsys)


@pytest.mark.parametrize("name", ["adamw", "schedule_free_sgd"])
def test_batch_normalisation_is_trained_and_evaluated_as_in_the_trial(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = {"adamw": 3e-3, "schedule_free_sgd": 0.5}[name]
    check(configuration(name, "linear", lr=lr), "digits-cnn", tmp_path, capsys, whole=True)


def test_a_tame_trial_gives_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So the seed, the weights, the order of examples and the schedule are the trial's own."""
    params = configuration("momentum", "cosine", lr=0.01)
    (row,) = stacked(workloads.load("digits-mlp", {"hidden": 16}), params, [7], 16)
    path = tmp_path / "train.py"
    path.write_text(train_file(trained(params, "digits-mlp", {}, seed=7, workload_params={"hidden": 16})))
    assert executed(path, capsys)["valid_loss"] == pytest.approx(row.metrics["valid_loss"], rel=1e-4)


OWN = """
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tuner
from sizes_beside_it import INPUTS

X, Y = torch.linspace(-1, 1, 200 * INPUTS).sin().view(200, INPUTS), torch.arange(200) % 3


class Shaken:
    def __len__(self):
        return len(X)

    def __getitem__(self, numbers):
        return X.numpy()[numbers]

    def augmented(self, numbers, seeds):
        return X.numpy()[numbers] + (seeds % 7).astype(np.float32)[:, None] / 70


@tuner.workload("own-of-train-file")
def own(hidden: int) -> tuner.Task:
    model = lambda: nn.Sequential(nn.Linear(INPUTS, hidden), nn.Tanh(), nn.Linear(hidden, 3))
    return tuner.Task(model, cross_entropy, (Shaken(), Y), (X, Y), roles={"0.weight": "embedding"}, precision="bf16")
"""


def test_a_users_file_is_imported_from_where_it_lies_and_augments(tmp_path: Path) -> None:
    """In a process of its own, started from another directory, as a user would."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "own.py").write_text(OWN)
    (tmp_path / "parts" / "sizes_beside_it.py").write_text("INPUTS = 5\n")
    params = configuration("muon", "linear", lr=0.02, **{"workload.hidden": 9})
    program = {"micro_batch": 16, "precision": "bf16"}
    path = tmp_path / "train.py"
    path.write_text(train_file(trained(params, "own-of-train-file", program, sources=["parts/own.py"])))
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(path)], cwd="/", env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    name, value = done.stdout.split()
    sys.path.insert(0, str(tmp_path / "parts"))
    try:
        workloads.import_user_workloads(str(tmp_path / "parts" / "own.py"))
    finally:
        sys.path.pop(0)
    task = workloads.load("own-of-train-file", {"hidden": 9})
    rows = stacked(task, {k: v for k, v in params.items() if k != "workload.hidden"}, [1, 2, 3, 4, 5], 16)
    spread = statistics.stdev(row.metrics["valid_loss"] for row in rows)
    assert name == "valid_loss" and abs(float(value) - rows[0].metrics["valid_loss"]) <= 2 * spread


@pytest.mark.parametrize("kind", input_kinds.KINDS)
def test_any_kind_of_batch_trains_and_is_evaluated_by_the_file(kind: str, tmp_path: Path, capsys: Any) -> None:
    task, name = input_kinds.task_of(kind), f"solo-{kind.replace(' ', '-')}"
    workloads.workload(name)(lambda: input_kinds.task_of(kind))
    params = configuration("sgd", "linear", lr=0.05, batch_size=8)
    path = tmp_path / "train.py"
    path.write_text(train_file(trained(params, name, {})))
    (row,) = stacked(task, params, [1], 4)
    found = executed(path, capsys)
    assert found == {name: pytest.approx(row.metrics[name], rel=1e-3) for name in found} and "valid_loss" in found


def test_the_batches_are_the_trials_own() -> None:
    task = workloads.load("digits-mlp", {})
    found = list(solo.batches(task, 5, 24, 3))
    assert [len(batch[0]) for batch in found] == [24, 24, 24]
    (whole,) = solo.batches(task, 5, 72, 1)
    for parts, together in zip(zip(*found, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(parts), together)


def test_only_torch_is_asked_of_the_file_too() -> None:
    file = train_file(trained(configuration("adamw", "linear"), "digits-mlp", {}), only_torch=True)
    assert "torch.optim.AdamW" in file and "tuner.optimizers" not in file
