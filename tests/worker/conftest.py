"""What the tests of workers share: a known path, and no compiling beside the endless trials of real processes."""

import pytest

from tuner import workloads
from tuner.probe.choice import Cell, cpu, key, learn
from tuner.worker.device.loading import shapes_of


@pytest.fixture(autouse=True)
def no_compiler_for_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.parent.name == "worker":
        monkeypatch.setenv("CXX", "none")


@pytest.fixture(scope="session", autouse=True)
def stacks_are_eager() -> None:
    """Otherwise a measurement decides, and trials that are compared bit by bit may have had two programs."""
    cells = Cell("loop", 1, 1.0), Cell("eager", 2, 1e-3), Cell("eager", 64, 1e-3)
    learn(key("digits-mlp", {}, 4, cpu()), *cells, model=shapes_of(workloads.load("digits-mlp", {})))
