"""The demo says which programs its workers took, and why."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tuner.probe.choice import Cell, cpu, key, learn
from tuner.study.micro_batch import grouped
from tuner.study.spec import StudySpec
from tuner.terminal.demo import DEMO_DOCUMENT
from tuner.terminal.programs_report import programs_table

SPEC = StudySpec.model_validate(DEMO_DOCUMENT)
GROUPS = grouped([8, 16, 64])


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def shown() -> str:
    out = StringIO()
    Console(file=out, width=60, color_system="truecolor", force_terminal=True).print(programs_table(SPEC, GROUPS))
    return out.getvalue()


def test_rates_stand_side_by_side_and_the_fastest_is_bold() -> None:
    cells = Cell("loop", 1, 1e-3), Cell("eager", 4, 2e-3), Cell("eager", 16, 4e-3)
    learn(key("digits-mlp", {}, 4, cpu()), *cells, model="m")
    learn(key("digits-mlp", {}, 32, cpu()), Cell("loop", 1, 1e-3), Cell("compiled", 2, 1e-3), model="m")
    lines = shown().splitlines()
    assert "8, 16" in lines[2] and "1,000 (1)" in lines[2] and "\x1b[1m4,000 (16)\x1b[0m" in lines[2]
    assert "64" in lines[3] and "\x1b[1m2,000 (2)\x1b[0m" in lines[3]


def test_without_anything_learned_there_is_nothing_to_show() -> None:
    assert programs_table(SPEC, GROUPS) is None
