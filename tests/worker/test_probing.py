"""A probe in real processes, as the command shows and keeps it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuner import choice
from tuner.cli import app
from tuner.engine import probe
from tuner.errors import TunerError
from tuner.terminal.probe_tables import LeftOut, Measured, show
from tuner.worker.probing import Processes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    return tmp_path / "tuner" / "probe.json"


WANTED = {"workload": "digits-mlp", "workload_params": {"hidden": 16}, "micro_batch": 4, "device": "cpu"}
WANTED |= {"workloads": [], "cell_s": 0.0}


def test_two_processes_measure_the_same_stack_together() -> None:
    with Processes(2, 1, WANTED) as team:
        timing = team.measure("eager", 2)
        assert timing is not None and timing.tick_s > 0 and timing.footprint.width == 2
        assert team.measure("compiled", 2) is None
        again = team.measure("eager", 2)
        assert again is not None and again.footprint == timing.footprint
        running = list(team._running)
    assert all(process.returncode is not None for process in running)


def test_a_workload_that_fails_says_why() -> None:
    with pytest.raises(TunerError, match="depth"), Processes(1, 1, WANTED | {"workload_params": {"depth": 1}}):
        pass
    killed = Processes(1, 1, WANTED)
    with pytest.raises(TunerError, match="a process of the probe ended"), killed:
        killed._running[0].kill()
        killed.measure("eager", 2)


def test_the_command_prints_and_keeps_the_choice_and_compares_micro_batches(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "CELL_S", 0.0)
    arguments = ["probe", "digits-mlp", "--param", "hidden=16", "--most", "1", "--processes", "1", "--threads", "1"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--batch-sizes", "2,4", "--json"]).stdout)
    assert {cell["path"] for cell in found["cells"]} == {"loop", "eager"} and found["file"] == str(cache)
    assert found["choice"] in found["cells"] and found["left_out"] == []
    assert found["micro_batch"] == 1 and set(found["micro_batches"]) == {"1"}
    assert found["best_micro_batch"] == 1
    kept = choice.stored(choice.key("digits-mlp", {"hidden": 16}, 1, choice.cpu()))
    assert kept is not None and kept.best.path == found["choice"]["path"]


def test_the_command_refuses_what_is_not_legal() -> None:
    for wrong in (["--param", "hidden"], ["--batch-sizes", "8,x"], ["--batch-sizes", "8,16", "--micro-batch", "3"]):
        assert CliRunner().invoke(app, ["probe", "digits-mlp", *wrong]).exit_code == 2


def test_the_table_names_the_choice_and_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    cells = (choice.Cell("loop", 1, 1e-3, 1, 2, 2**20), choice.Cell("eager", 16, 2e-3, 2, 1))
    show(Measured([*cells, LeftOut("eager", 64, 2, 1, 2**30)], choice.Choice(cells), 4, "FILE", {2: 90.0, 4: 93.0}))
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "<- choice" in line).split()[:6] == [
        "2",
        "1",
        "16",
        "eager",
        "2.000",
        "16,000",
    ]
    assert next(line for line in lines if "does not fit" in line).split()[:5] == ["2", "1", "64", "eager", "1,024.0"]
    assert any(line.startswith("choice: 2 processes of 1 threads, eager, width 16") for line in lines)
    assert any(line.startswith("micro_batch: 2 ") for line in lines)
