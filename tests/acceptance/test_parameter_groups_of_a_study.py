"""A study that searches factors of parameter groups, from the document to the file that trains its winner again."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, wait_for

GROUPS: list[dict[str, Any]] = [
    {"name": "head", "match": "2.*", "lr_factor": {"values": [1, 8]}},
    {"name": "depth", "depth_decay": {"min": 0.5, "max": 1}},
    {"match": "*.bias", "weight_decay_factor": 0},
]


def document(name: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "workload": "digits-mlp",
        "optimizers": [{"name": "adamw", "beta1": 0.9}],
        "parameters": {"lr": 0.003, "batch_size": 32, "weight_decay": 0.1, "schedule": "cosine"},
        "groups": groups,
        "method": "random",
        "run_cap": 6,
        "budget": {"examples_per_trial": 1600, "max_failed": 3},
    }


def ended(server: LiveServer, name: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    server.submit(document(name, groups))
    wait_for(lambda: server.get(f"/studies/{name}")["state"] in ("completed", "failed"), f"{name} to end", 200)
    return dict(server.get(f"/studies/{name}"))


def test_factors_are_searched_and_handed_over(live_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    server = live_server()
    study = ended(server, "tuned", GROUPS)
    assert study["state"] == "completed"
    assert study["swept"]["adamw"] == ["group.head.lr_factor", "group.depth.depth_decay"]
    trials = server.get("/studies/tuned/trials")["items"]
    assert [trial["state"] for trial in trials] == ["completed"] * 6
    for trial in trials:
        params = {key: value for key, value in trial["params"].items() if key.startswith("group.")}
        assert params.pop("group.head.lr_factor") in (1, 8) and 0.5 <= params.pop("group.depth.depth_decay") <= 1
        assert params == {
            "group.head.match": "2.*",
            "group.depth.match": "*",
            "group.bias.match": "*.bias",
            "group.bias.weight_decay_factor": 0,
        }
    assert len({trial["value"] for trial in trials}) == 6
    best = server.get("/studies/tuned/best")
    assert 'fnmatchcase(name, "*.bias")' in best["snippet"] and "depths[name]" in best["snippet"]
    environment = {**os.environ, "TUNER_SERVER": server.url, "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-P", "-m", "tuner", "best", "tuned", "--torch").count("torch.optim.AdamW(") == 1
    run("-P", "-m", "tuner", "best", "tuned", "-o", "train.py")
    found = dict(line.split() for line in run("train.py").splitlines())
    assert float(found["valid_loss"]) == pytest.approx(best["trial"]["value"], rel=0.02)
    failed = ended(server, "mistaken", [{"match": "hed.*", "lr_factor": 8}])
    assert failed["state"] == "failed"
    told = "'hed.*' matches no parameter that is trained; those are 0.weight, 0.bias, 2.weight, 2.bias"
    assert told in failed["reason"], failed
