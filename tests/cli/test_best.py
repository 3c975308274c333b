"""`tuner best --torch` and `-o FILE`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, answer, study, trial
from typer.testing import Result

Run = Callable[..., Result]
ADAMW = {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01, "batch_size": 32, "schedule": "cosine"}


@pytest.fixture
def winner(server: FakeServer) -> Callable[..., None]:
    """Set what the server says of the winner, and of its study's workload."""

    def set_winner(params: dict[str, Any], workload: Any = "digits-mlp", **more: Any) -> None:
        won = trial(optimizer=params["optimizer"], params=params, total_steps=20, total_examples=640, **more)
        best = {"trial": won, "grade": "D", "interval": None, "evidence": "one seed", "snippet": "x = 1\n"}
        server.set("/api/v1/studies/demo/best", answer(best))
        server.set("/api/v1/studies/demo", answer(study(document={"workload": workload})))

    return set_winner


def test_plain_torch_where_torch_has_the_rule(tuner: Run, winner: Callable[..., None]) -> None:
    winner(ADAMW, program={"precision": "bf16", "width": 4})
    result = tuner("best", "demo", "--torch")
    assert result.exit_code == 0
    code = result.stdout[result.stdout.index("import math") :]
    assert "torch.optim.AdamW(" in code and "tuner" not in code and "torch.autocast(" in code
    compile(code, "printed", "exec")
    as_json = json.loads(tuner("best", "demo", "--torch", "--json").stdout)
    assert as_json["snippet"] == code.rstrip("\n")


def test_a_refusal_is_one_sentence(tuner: Run, winner: Callable[..., None]) -> None:
    winner({**ADAMW, "optimizer": "muon"})
    result = tuner("best", "demo", "--torch")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: --torch: torch.optim.Muon takes 2-D parameters only")
    assert len(result.stderr.splitlines()) == 1


def test_a_file_that_trains_the_winner_again(tuner: Run, winner: Callable[..., None], tmp_path: Path) -> None:
    winner({**ADAMW, "optimizer": "muon", "lr": 0.02}, {"name": "digits-mlp", "params": {"hidden": 8}}, seed=5)
    path = tmp_path / "train.py"
    result = tuner("best", "demo", "-o", str(path))
    assert result.exit_code == 0 and result.stdout == "" and f"wrote {path}" in result.stderr
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines())
    assert set(values) == {"valid_loss", "valid_accuracy"} and 0 < float(values["valid_loss"]) < 3
    assert "seed = 5" in path.read_text() and "'hidden': 8" in path.read_text()


def test_a_workload_of_ones_own_needs_its_file(
    tuner: Run, winner: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner(ADAMW, "my-network")
    (tmp_path / "there").mkdir()
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    result = tuner("best", "demo", "-o", "there/train.py")
    assert result.exit_code == 2 and "--workloads: is missing; the workload 'my-network' is your own" in result.stderr
    result = tuner("best", "demo", "-o", "there/train.py", "--workloads", "none.py")
    assert result.exit_code == 2 and "no such file" in result.stderr
    assert not (tmp_path / "there" / "train.py").exists()
    assert tuner("best", "demo", "-o", "there/train.py", "--workloads", "mine.py").exit_code == 0
    assert "parent / '../mine.py'" in (tmp_path / "there" / "train.py").read_text()
