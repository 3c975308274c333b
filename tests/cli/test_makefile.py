"""The Makefile uses nothing that make 3.81 (macOS) lacks, and says what to do where Python is missing."""

import os
import re
import shutil
import subprocess
import sys
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
    (tmp_path / ".venv" / ".installed-tools").touch()
    done = subprocess.run(["make", "-s", "check"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert (tmp_path / "ran").read_text().split() == ["ruff", "ruff", "mypy"]


FAKE_PYTHON = """#!/bin/sh
# Python as the Makefile calls it: notes its arguments, makes environments, and cannot reach PyTorch's index.
echo "$@" >> {log}
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp {self} .venv/bin/python;;
    *--index-url*) exit {index};;
esac
"""


class Fakes:
    """A checkout with a Python and a command `tuner` that only note how they were called."""

    def __init__(self, folder: Path, *, gpu: bool, index_is_there: bool) -> None:
        self.folder, self.log = folder, folder / "calls"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        programs = folder / "programs"
        programs.mkdir()
        self.python = programs / "fake-python"
        self.python.write_text(FAKE_PYTHON.format(log=self.log, self=self.python, index=0 if index_is_there else 1))
        (programs / "nvidia-smi").write_text("#!/bin/sh\n" + ("echo GPU 0: H100\n" if gpu else "exit 9\n"))
        for program in programs.iterdir():
            program.chmod(0o755)
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "tuner").symlink_to("/bin/true")

    def make(self, *arguments: str) -> tuple[str, list[str]]:
        """Return what make printed, and the installations that it asked for."""
        self.log.write_text("")
        done = subprocess.run(
            ["make", *arguments, f"PYTHON={self.python}"],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.python.parent}:{os.environ['PATH']}"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        calls = self.log.read_text().splitlines()
        return done.stdout, [call.partition("-c constraints.txt ")[2] for call in calls if "pip" in call]


CPU_BUILD = "--retries 1 --no-deps torch --index-url https://download.pytorch.org/whl/cpu"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="PyPI's build is the CPU build elsewhere")


@on_linux
def test_the_demo_installs_only_tuner_and_a_test_completes_the_installation(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path, gpu=False, index_is_there=True)
    said, installed = fakes.make("demo")
    assert installed == [CPU_BUILD, "-e ."]
    assert "not to be had" not in said
    assert fakes.make("demo")[1] == []
    assert fakes.make("test")[1] == ["-e .[dev]"]
    assert fakes.make("test")[1] == []
    os.utime(tmp_path / "constraints.txt", (2e9, 2e9))
    assert fakes.make("serve")[1] == [CPU_BUILD, "-e ."]


@on_linux
@pytest.mark.parametrize(
    ("gpu", "arguments", "wanted"), [(True, [], False), (True, ["TORCH=cpu"], True), (False, ["TORCH=cuda"], False)]
)
def test_pytorch_without_cuda_is_taken_where_there_is_no_gpu_or_on_demand(
    tmp_path: Path, gpu: bool, arguments: list[str], wanted: bool
) -> None:
    installed = Fakes(tmp_path, gpu=gpu, index_is_there=True).make("install", *arguments)[1]
    assert installed == ([CPU_BUILD] if wanted else []) + ["-e ."]


@on_linux
def test_where_the_index_of_cpu_builds_is_out_of_reach_one_line_says_so(tmp_path: Path) -> None:
    said, installed = Fakes(tmp_path, gpu=False, index_is_there=False).make("install")
    assert installed == [CPU_BUILD, "-e ."]
    assert [line for line in said.splitlines() if "PyTorch" in line] == [
        "PyTorch's CPU build is not to be had from https://download.pytorch.org/whl/cpu; "
        "installing the build of the package index"
    ]
