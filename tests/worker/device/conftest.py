"""What all tests of a device process share: no compiling beside them, unless a test asks for it, and a known path."""

import pytest

from tuner import workloads
from tuner.probe.choice import Cell, cpu, key, learn
from tuner.worker.device import stack_choice
from tuner.worker.device.loading import shapes_of


@pytest.fixture(autouse=True)
def nothing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_choice, "PAYS_S", float("inf"))


@pytest.fixture(scope="session", autouse=True)
def stacks_are_eager() -> None:
    """Otherwise a measurement decides, and trials that are compared bit by bit may have had two programs."""
    cells = Cell("loop", 1, 1.0), Cell("eager", 2, 1e-3), Cell("eager", 64, 1e-3)
    learn(key("digits-mlp", {}, 4, cpu()), *cells, model=shapes_of(workloads.load("digits-mlp", {})))
