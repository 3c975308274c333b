"""What a study found, trained again by the file that `tuner best` writes: it arrives within the spread over seeds."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from live_server import LiveServer, wait_for

from tuner.study.catalogue import load_catalogue

SEEDS = 3


def document(seed: int) -> dict[str, Any]:
    """One configuration: nothing is searched."""
    fixed = {h.name: h.default for h in load_catalogue().optimizers["muon"].hyperparameters}
    return {
        "name": f"found-{seed}",
        "seed": seed,
        "workload": {"name": "digits-mlp", "params": {"hidden": 24}},
        "optimizers": [{"name": "muon", **fixed, "clip_norm": 1.0}],
        "parameters": {"schedule": "wsd", "batch_size": 32},
        "method": "random",
        "run_cap": 1,
        "budget": {"examples_per_trial": 2048},
    }


def test_the_winners_file_arrives_where_the_winner_did(live_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    server = live_server(TUNER_WIDTH="8")
    names = [f"found-{seed}" for seed in range(SEEDS)]
    for seed in range(SEEDS):
        server.submit(document(seed))
    for name in names:
        wait_for(lambda name=name: server.get(f"/studies/{name}")["state"] == "completed", f"{name} to complete", 200)
    values = [server.get(f"/studies/{name}/best")["trial"]["value"] for name in names]
    assert len(set(values)) == SEEDS
    environment = {**os.environ, "TUNER_SERVER": server.url, "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-P", "-m", "tuner", "best", names[1], "-o", "train.py")
    found = dict(line.split() for line in run("train.py").splitlines())
    assert abs(float(found["valid_loss"]) - values[1]) <= 2 * statistics.stdev(values)
