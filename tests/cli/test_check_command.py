"""`tuner check` and `tuner workloads`: exit codes, tables at 60 and 120 columns, one JSON object."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from typer.testing import Result

Run = Callable[..., Result]

FILE = '''
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tuner

X, Y = torch.randn(40, 7), torch.arange(40) % 3


def data(**more):
    return dict(train=(X, Y), valid=(X, Y), **more)


@tuner.workload("{prefix}-sound")
def sound(hidden: int = 5) -> tuner.Task:
    """A small perceptron."""
    model = lambda: nn.Sequential(nn.Linear(7, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Linear(hidden, 3))
    return tuner.Task(model, cross_entropy, **data())


@tuner.workload("{prefix}-sum")
def summed() -> tuner.Task:
    loss = lambda output, target: cross_entropy(output, target, reduction="sum")
    return tuner.Task(lambda: nn.Linear(7, 3), loss, **data())


@tuner.workload("{prefix}-fault")
def fault() -> tuner.Task:
    return tuner.Task(lambda: nn.Linear(7, 3), wrong, **data())


def wrong(output, target):
    raise ValueError("[what] the loss cannot do")
'''


@pytest.fixture
def workloads_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A file whose names no other test registers."""
    prefix = f"own{crc32(request.node.name.encode()) % 10**6}"
    path = tmp_path / f"{prefix}_workloads.py"
    path.write_text(FILE.replace("{prefix}", prefix))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a few ticks only."""
    monkeypatch.setattr("tuner.probe.checkup.checkup.TIMED_S", 0.0)


def named(path: Path, kind: str) -> str:
    return f"{path.stem.removesuffix('_workloads')}-{kind}"


@pytest.mark.parametrize("columns", [60, 120])
def test_every_workload_of_a_file_is_checked(
    tuner: Run, workloads_file: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = tuner("check", workloads_file.name)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    traceback = lines.index("Traceback (most recent call last):")
    assert max(map(len, lines[:traceback])) <= columns
    heads = [line for line in lines if line in {named(workloads_file, kind) for kind in ("sound", "sum", "fault")}]
    assert heads == [named(workloads_file, kind) for kind in ("sound", "sum", "fault")]
    text = " ".join(result.stdout.split())
    assert "fine: trials of this workload can train." in text
    assert "warning: The loss is a sum" in text
    assert "run together as one program" in text and "valid_loss" in text
    assert "fault: every trial would fail with this:" in text
    assert [line for line in lines if line.startswith("  File")] == [
        line for line in lines if line.startswith("  File") and str(workloads_file) in line
    ]
    assert lines[-1] == "ValueError: [what] the loss cannot do"
    roles = [line.split() for line in lines if line.split()[:1] in (["matrix"], ["head"])]
    assert roles[0] == ["matrix", "0.weight", "[5,", "7]", "2"] and roles[1] == ["head", "3.weight", "[3,", "5]", "0"]


def test_one_workload_with_its_parameters_as_json(tuner: Run, workloads_file: Path) -> None:
    name = named(workloads_file, "sound")
    result = tuner("check", str(workloads_file), name, "--param", "hidden=4", "--micro-batch", "5", "--json")
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["ok"] is True and found["fault"] is None and found["source"] == str(workloads_file)
    (report,) = found["workloads"]
    assert report["workload"] == name and report["params"] == {"hidden": 4} and report["micro_batch"] == 5
    assert report["roles"]["matrix"] == {"0.weight": [4, 7], "2.weight": [4, 4]}
    assert set(report["memory"]) == {"1", "8", "64"}


def test_a_groups_pattern_is_tried(tuner: Run) -> None:
    result = tuner("check", "digits-mlp", "--group", "2.*")
    assert result.exit_code == 0 and "2.*: 2.weight, 2.bias" in result.stdout and "layers above" in result.stdout
    result = tuner("check", "digits-mlp", "--group", "hed.*")
    assert result.exit_code == 1 and "'hed.*' matches no parameter" in result.stdout


def test_a_warning_is_no_fault(tuner: Run, workloads_file: Path) -> None:
    assert tuner("check", str(workloads_file), named(workloads_file, "sum")).exit_code == 0


def test_a_known_workload_needs_no_file(tuner: Run) -> None:
    result = tuner("check", "rosenbrock", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["workloads"][0]["workload"] == "rosenbrock"


def test_a_file_that_cannot_be_imported(tuner: Run, tmp_path: Path) -> None:
    broken = tmp_path / "cannot_be_imported.py"
    broken.write_text("import json\n\n\ndef read():\n    return json.loads('{')\n\n\nread()\n")
    result = tuner("check", str(broken))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("  File")] == [
        f'  File "{broken}", line 8, in <module>',
        f'  File "{broken}", line 5, in read',
    ]
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")
    result = tuner("check", str(broken), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and found["ok"] is False and found["workloads"] == []
    assert "JSONDecodeError" in found["fault"]
    broken.write_text("def read(:\n")
    assert tuner("check", str(broken)).stdout.splitlines()[-1].startswith("SyntaxError: ")


def test_mistaken_arguments(tuner: Run, workloads_file: Path, tmp_path: Path) -> None:
    result = tuner("check", str(tmp_path / "none.py"))
    assert result.exit_code == 1 and "no file" in result.stderr
    result = tuner("check", str(workloads_file), "nothing")
    assert result.exit_code == 1 and "registers no workload 'nothing'" in result.stderr
    (tmp_path / "empty_of_workloads.py").write_text("x = 1\n")
    result = tuner("check", str(tmp_path / "empty_of_workloads.py"))
    assert result.exit_code == 1 and "registers no workload" in result.stderr
    assert tuner("check", "rosenbrock", "--param", "dimensions").exit_code == 2
    assert tuner("check", "rosenbrock", "--device", "abacus").exit_code == 2


def test_what_this_machine_knows_is_listed(tuner: Run, workloads_file: Path) -> None:
    result = tuner("workloads", "--workloads", str(workloads_file))
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    assert "built-in" in rows["digits-mlp"]
    own = rows[named(workloads_file, "sound")]
    assert f"module {workloads_file.stem}" in own and "A small perceptron." in own
    found = json.loads(tuner("workloads", "--json").stdout)["items"]
    assert {"name": "digits-mlp", "origin": "built-in"}.items() <= next(
        item for item in found if item["name"] == "digits-mlp"
    ).items()
