"""Workloads of installed packages: known by their entry points, imported on demand; a broken one harms nothing."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuner import workloads
from tuner.cli import app
from tuner.errors import NotFound
from tuner.worker.device.device import _hello
from tuner.workloads import registry
from tuner.workloads.installed import installed
from tuner.workloads.task import Task

MODULE = '''
from torch import nn, zeros
from torch.nn.functional import mse_loss

import tuner


def by_factory(size: int = 3) -> tuner.Task:
    """Given as a factory."""
    data = zeros(4, 2), zeros(4, size)
    return tuner.Task(lambda: nn.Linear(2, size), mse_loss, data, data)


@tuner.workload("installed-by-module")
def by_module() -> tuner.Task:
    """Registered by its module."""
    return by_factory()
'''
POINTS = """[tuner.workloads]
installed-by-factory = sound_package_of_workloads:by_factory
installed-by-module = sound_package_of_workloads
installed-broken = broken_package_of_workloads:anything
installed-empty = sound_package_of_workloads:nn
digits-mlp = broken_package_of_workloads:anything
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the path with a distribution whose entry points are POINTS."""
    (tmp_path / "sound_package_of_workloads.py").write_text(MODULE)
    (tmp_path / "broken_package_of_workloads.py").write_text("import no_such_module_anywhere\n")
    metadata = tmp_path / "workload_shop-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: workload-shop\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed.cache_clear()
    yield tmp_path
    installed.cache_clear()
    for name in [name for name in registry._factories if name.startswith("installed-")]:
        del registry._factories[name]
    sys.modules.pop("sound_package_of_workloads", None)


def test_a_factory_and_a_module_give_workloads(packages: Path) -> None:
    assert {"installed-by-factory", "installed-by-module"} <= set(workloads.names())
    assert "sound_package_of_workloads" not in sys.modules
    assert isinstance(workloads.load("installed-by-factory", {"size": 4}), Task)
    assert workloads.describe("installed-by-module") == "Registered by its module."
    for name in ("installed-by-factory", "installed-by-module", "installed-broken"):
        assert workloads.origin(name) == "package workload-shop"
    assert workloads.origin("digits-mlp") == "built-in"


def test_a_broken_package_is_named_in_a_warning_and_harms_nothing(
    packages: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        known = workloads.known()
    assert known["installed-by-factory"] == "Given as a factory." and "digits-mlp" in known
    assert not {"installed-broken", "installed-empty"} & set(known)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "the package 'workload-shop' names a workload 'installed-broken' (broken_package_of_workloads:anything), which "
        "does not load: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        "the package 'workload-shop' names a workload 'installed-empty' (sound_package_of_workloads:nn), which is "
        "module and registers no workload of this name",
    ]
    with pytest.raises(NotFound, match="no_such_module_anywhere"):
        workloads.load("installed-broken", {})


def test_a_registered_workload_counts_before_a_packages(packages: Path) -> None:
    @workloads.workload("installed-by-factory")
    def own() -> Task:
        """One's own."""
        raise NotImplementedError

    assert workloads.describe("installed-by-factory") == "One's own."
    assert workloads.origin("installed-by-factory") == f"module {__name__}"


def test_workers_and_commands_know_them(packages: Path) -> None:
    told = {workload["name"]: workload["description"] for workload in _hello("cpu")["workloads"]}
    assert told["installed-by-factory"] == "Given as a factory."
    assert "installed-broken" not in told
    listed = CliRunner().invoke(app, ["workloads"])
    row = next(line for line in listed.stdout.splitlines() if line.startswith("installed-by-module"))
    assert listed.exit_code == 0 and "package workload-shop" in row
    checked = CliRunner().invoke(app, ["check", "installed-by-factory", "--param", "size=4"])
    assert checked.exit_code == 0 and "run together as one program" in checked.stdout
    checked = CliRunner().invoke(app, ["check", "installed-broken"])
    assert checked.exit_code == 1 and "no_such_module_anywhere" in checked.stdout
