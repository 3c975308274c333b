"""A probe in real processes, as the command shows and keeps it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuner.cli import app
from tuner.engine import Stack
from tuner.errors import TunerError
from tuner.probe import choice, memory
from tuner.probe.bench import Bench
from tuner.terminal.probe_tables import LeftOut, Measured, show
from tuner.worker.channel import Json
from tuner.worker.device import probing
from tuner.worker.device.probing import Processes
from tuner.workloads import load


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    return tmp_path / "tuner" / "probe.json"


WANTED = {"workload": "digits-mlp", "workload_params": {"hidden": 16}, "micro_batch": 4, "per_tick": 2, "device": "cpu"}
WANTED |= {"workloads": [], "cell_s": 0.0}


class InThisProcess(Bench):
    """A team without processes of its own, for the command's tests."""

    def __init__(self, processes: int, threads: int, wanted: Json) -> None:
        self.started_with = (processes, threads)
        super().__init__(load(wanted["workload"], wanted["workload_params"]), wanted["micro_batch"], cell_s=0.0)
        self.threads = threads

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_two_processes_measure_the_same_stack_together() -> None:
    team = Processes(2, 1, WANTED)
    with pytest.raises(TunerError, match="a process of the probe ended with -9"), team:
        timing = team.measure("eager", 2)
        assert timing is not None and timing.tick_s > 0 and timing.footprint.width == 2
        assert team.measure("compiled", 2) is None
        again = team.measure("eager", 2)
        assert again is not None and again.footprint.peak == pytest.approx(timing.footprint.peak, rel=0.1)
        running = list(team._running)
        running[1].kill()
        team.measure("eager", 2)
    assert all(process.returncode is not None for process in running)


def test_a_workload_that_fails_says_why() -> None:
    with pytest.raises(TunerError, match="depth"), Processes(1, 1, WANTED | {"workload_params": {"depth": 1}}):
        pass


def test_the_command_keeps_the_choice_and_compares_micro_batches(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "Processes", InThisProcess)
    arguments = ["probe", "digits-mlp", "--param", "hidden=16", "--most", "1", "--threads", "1"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--batch-sizes", "8,16", "--json"]).stdout)
    assert {cell["path"] for cell in found["cells"]} == {"loop", "eager"} and found["file"] == str(cache)
    assert found["choice"] in found["cells"] and found["left_out"] == []
    assert found["micro_batch"] == 4 and set(found["micro_batches"]) == {"1", "2", "4"}
    assert str(found["best_micro_batch"]) in found["micro_batches"]
    kept = choice.stored(choice.key("digits-mlp", {"hidden": 16}, 4, choice.cpu()))
    assert kept is not None and kept.best.path == found["choice"]["path"]


def test_a_workload_that_depends_on_its_batch_is_probed_in_whole_batches(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "Processes", InThisProcess)
    filled: list[tuple[object, int]] = []
    real = memory.fill

    def fill(stack: Stack, optimizer: str, ticks_per_step: int) -> None:
        filled.append((stack.program["micro_batch"], ticks_per_step))
        real(stack, optimizer, ticks_per_step)

    monkeypatch.setattr(memory, "fill", fill)
    arguments = ["probe", "digits-cnn", "--param", "channels=2", "--most", "1", "--threads", "1"]
    result = CliRunner().invoke(app, [*arguments, "--batch-sizes", "8,16"])
    assert set(filled) == {("whole", 1)}
    words = " ".join(result.stdout.split())
    assert "trains it in whole batches" in words and "this is for batch size 8." in words
    assert "batch size examples/s" in words and "micro_batch:" not in words, "none to put into the document"
    wrong = CliRunner().invoke(app, [*arguments, "--batch-sizes", "8,16", "--micro-batch", "4"])
    assert wrong.exit_code == 2 and "allowed with these batch sizes: 8, 16" in wrong.output


def test_the_command_refuses_what_is_not_legal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "Processes", InThisProcess)
    for wrong in (["--param", "hidden"], ["--batch-sizes", "8,x"], ["--batch-sizes", "8,16", "--micro-batch", "3"]):
        assert CliRunner().invoke(app, ["probe", "digits-mlp", *wrong]).exit_code == 2


def test_the_table_names_the_choice_and_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    cells = (choice.Cell("loop", 1, 1e-3, 1, 2, 2**20), choice.Cell("eager", 16, 2e-3, 2, 1))
    show(Measured([*cells, LeftOut("eager", 64, 2, 1, 2**30)], choice.Choice(cells), 4, "FILE", {2: 90.0, 4: 93.0}))
    lines = capsys.readouterr().out.splitlines()
    chosen = next(line for line in lines if "<- choice" in line)
    assert chosen.split()[:6] == ["2", "1", "16", "eager", "2.000", "16,000"]
    assert next(line for line in lines if "does not fit" in line).split()[:5] == ["2", "1", "64", "eager", "1,024.0"]
    assert any(line.startswith("choice: 2 processes of 1 threads, eager, width 16") for line in lines)
    assert any(line.startswith("micro_batch: 2 ") for line in lines)
