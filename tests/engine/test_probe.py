"""What the probe chooses, keeps and prints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine_cases import small_task
from typer.testing import CliRunner

from tuner.cli import app
from tuner.engine import Stack, probe
from tuner.engine import stack as stack_module
from tuner.engine.forward import SLOT_DEPENDENT
from tuner.engine.probe import Cell, Choice


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    return tmp_path / "tuner" / "probe.json"


def test_the_narrowest_of_the_nearly_fastest_is_chosen() -> None:
    cells = (Cell("loop", 1, 1.0), Cell("eager", 4, 1.04), Cell("eager", 8, 2.0), Cell("loop", 8, 1.99))
    assert Choice(cells).best == cells[1]
    assert Choice((*cells, Cell("compiled", 8, 1.9))).best.path == "compiled"
    assert Choice(cells[2:]).best == cells[3]


def test_a_given_width_gets_the_fastest_path_measured_at_or_below_it() -> None:
    choice = Choice((Cell("loop", 2, 1.0), Cell("eager", 2, 2.0), Cell("loop", 8, 3.0), Cell("eager", 8, 2.0)))
    assert [choice.path_at(width) for width in (1, 2, 7, 8, 100)] == ["loop", "loop", "loop", "eager", "eager"]


def test_choices_are_kept_by_everything_that_changes_the_speed(cache: Path) -> None:
    choice = Choice((Cell("loop", 1, 0.25), Cell("eager", 4, 0.5)))
    keys = [probe.key("w", {"a": 1}, 8, "cpu"), probe.key("w", {"a": 2}, 8, "cpu"), probe.key("w", {"a": 1}, 4, "cpu")]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys.append(probe.key("w", {"a": 1}, 8, "cpu"))
    torch.set_num_threads(threads)
    assert len(set(keys)) == 4 and probe.stored(keys[0]) is None
    probe.store(keys[0], choice)
    probe.store(keys[1], Choice(choice.cells[:1]))
    assert probe.stored(keys[0]) == choice and probe.stored(keys[1]) == Choice(choice.cells[:1])
    assert list(cache.parent.iterdir()) == [cache]
    for damage in ("{", "[]", json.dumps({keys[0]: [{"path": "loop"}]}), json.dumps({keys[0]: 3})):
        cache.write_text(damage)
        assert probe.stored(keys[0]) is None
    probe.store(keys[2], choice)
    assert probe.stored(keys[2]) == choice


def test_what_has_no_memory_is_left_out_and_what_falls_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = Stack.tick

    def hungry(stack: Stack) -> object:
        if stack.path == "eager" and stack.width > 1:
            raise torch.OutOfMemoryError
        return real(stack)

    monkeypatch.setattr(Stack, "tick", hungry)
    cells = list(probe.probe(small_task(), 4, widths=(1, 2, 4), cell_s=0.0))
    assert [(c.width, c.path) for c in cells] == [(1, "loop"), (1, "eager"), (2, "loop"), (4, "loop")]
    assert all(cell.tick_s > 0 and cell.rate == cell.width / cell.tick_s for cell in cells)


def test_the_command_prints_and_keeps_the_choice(cache: Path) -> None:
    threads = torch.get_num_threads()
    arguments = ["probe", "digits-mlp", "--param", "hidden=16", "--micro-batch", "4", "--most", "1", "--threads", "1"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0 and "choice: " in shown.stdout and "trial-ticks/s" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert {cell["path"] for cell in found["cells"]} == {"loop", "eager"} and found["file"] == str(cache)
    assert found["choice"] in found["cells"]
    torch.set_num_threads(1)
    kept = probe.stored(probe.key("digits-mlp", {"hidden": 16}, 4, "cpu"))
    torch.set_num_threads(threads)
    assert kept is not None and kept.best.path == found["choice"]["path"]
    assert CliRunner().invoke(app, ["probe", "digits-mlp", "--param", "hidden"]).exit_code == 2


def test_an_eager_path_that_tells_slots_apart_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it is."""

    def paths() -> set[str]:
        return {cell.path for cell in probe.probe(small_task(), 4, widths=(3,), cell_s=0.001)}

    assert paths() == {"loop", "eager"}
    monkeypatch.setattr(stack_module, "fault_of_vmap", lambda *_: SLOT_DEPENDENT)
    assert paths() == {"loop"}
