"""The Makefile uses nothing that make 3.81 (macOS) lacks, and says what to do where Python is missing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import tuner

ROOT = Path(tuner.__file__).parent.parent
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_it_uses_only_what_make_3_81_has() -> None:
    code = re.sub(r"^#.*$", "", TEXT, flags=re.MULTILINE)
    # Each came with 3.82 or later; .ONESHELL and .SHELLFLAGS would be ignored in silence.
    for newer in (".ONESHELL", ".SHELLFLAGS", ".RECIPEPREFIX", "undefine ", "!=", "::=", "$(file ", "private "):
        assert newer not in code, newer


def test_every_line_of_a_recipe_is_a_shell_command_of_its_own() -> None:
    joined = TEXT.replace("\\\n", " ")
    lines = [line[1:].lstrip("@") for line in joined.splitlines() if line.startswith("\t")]
    assert len(lines) > 20
    for line in lines:
        shown = re.sub(r"\$\(\w+\)|\$\(or [^)]*\)", "X", line).replace("$$", "$")
        parsed = subprocess.run(["bash", "-n", "-c", shown], capture_output=True, encoding="utf-8")
        assert parsed.returncode == 0, (line, parsed.stderr)


@pytest.mark.parametrize("target", ["demo", "serve", "test", "check", "bench", "catalogue", "install"])
def test_without_a_python_that_is_new_enough_the_remedy_is_said(tmp_path: Path, target: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", target, "PYTHON=/nowhere/python"], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert "Tuner needs Python 3.11 or newer; /nowhere/python is not" in done.stderr
    assert f"make {target} PYTHON=/path/to/python3.12" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_help_lists_the_targets() -> None:
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    assert set(re.findall(r"^make (\w+)", shown, re.M)) >= {"demo", "serve", "test", "check", "bench", "install"}


def test_a_failing_check_fails_the_target(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("ruff", "mypy", "lint-imports"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> ran\n[ {name} != mypy ]\n")
        (tools / name).chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    done = subprocess.run(["make", "-s", "check"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert (tmp_path / "ran").read_text().split() == ["ruff", "ruff", "mypy"]
