"""What every built-in workload must satisfy: it runs as a stack, equals a plain loop, keeps its bits, is described."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import write_cifar, write_mnist
from torch import Tensor

from tuner import workloads
from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.engine.data_order import DataOrder
from tuner.engine.seeds import INITIALISATION, derive
from tuner.study.catalogue import BUILT_IN_METRICS, BUILT_IN_WORKLOADS
from tuner.workloads import Task

NAMES = sorted(BUILT_IN_WORKLOADS)
SMALL: dict[str, dict[str, Any]] = {
    "digits-cnn": {"channels": 3},
    "linear-regression": {"dimensions": 13, "examples": 500},
    "mlp-images": {"hidden": 12},
    "noisy-quadratic": {"dimensions": 21, "examples": 300},
    "resnet-images": {"channels": 3},
    "rosenbrock": {"dimensions": 5},
    "text-gpt": {"layers": 1, "heads": 2, "width": 12, "context": 20},
}
LR = {"rosenbrock": 1e-5, "linear-regression": 0.02}
STEPS, BATCH = 5, 8


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    mnist, cifar = tmp_path_factory.mktemp("mnist"), tmp_path_factory.mktemp("cifar")
    write_mnist(mnist, zipped=True)
    write_cifar(cifar)
    return {"mlp-images": str(mnist), "resnet-images": str(cifar)}


@pytest.fixture
def task(name: str, directories: dict[str, str]) -> Task:
    given = {"directory": directories[name]} if name in directories else {}
    return workloads.load(name, {**SMALL.get(name, {}), **given})


def trial(name: str, key: int, optimizer: str = "sgd", seed: int = 0, **params: Any) -> TrialSpec:
    configuration = {"optimizer": optimizer, "lr": LR.get(name, 0.05), "batch_size": BATCH, **params}
    return TrialSpec(key, configuration, seed, STEPS * BATCH, rungs=(2 * BATCH,), report_every=BATCH)


def run(stack: Stack, trials: list[TrialSpec]) -> tuple[dict[Any, list[Row]], dict[Any, Ended]]:
    rows: dict[Any, list[Row]] = {}
    ends: dict[Any, Ended] = {}
    for spec in trials:
        stack.admit(spec)
    while stack.busy:
        for event in stack.tick():
            if isinstance(event, Ended):
                ends[event.key] = event
            else:
                rows.setdefault(event.key, []).append(event)
    return rows, ends


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_as_one_stack_and_reports_what_the_server_says(name: str, task: Task) -> None:
    assert workloads.describe(name).rstrip(".") == BUILT_IN_WORKLOADS[name]
    stack = Stack(task, width=3, micro_batch=4)
    assert stack.path == "eager"
    rows, ends = run(stack, [trial(name, 1), trial(name, 2, "adamw", lr=1e-3), trial(name, 3, "muon", lr=1e-3)])
    assert {key: (end.outcome, end.step, end.infeasible) for key, end in ends.items()} == {
        key: ("finished", STEPS, None) for key in (1, 2, 3)
    }
    assert {metric for row in rows[1] for metric in row.metrics} == set(BUILT_IN_METRICS[name])
    assert len({rows[key][-1].metrics["valid_loss"] for key in (1, 2, 3)}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_the_stack_equals_a_plain_loop_in_float64(name: str, task: Task) -> None:
    stack = Stack(task, width=2, micro_batch=BATCH, dtype=torch.float64)
    spec = TrialSpec(1, {"optimizer": "sgd", "lr": LR.get(name, 0.05), "batch_size": BATCH}, 7, 10**6)
    stack.admit(trial(name, 0, "adamw", lr=1e-3))
    slot = stack.admit(spec)
    assert slot == 1
    for _ in range(STEPS):
        stack.tick()
    model = task.build_model(derive(7, INITIALISATION)).double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR.get(name, 0.05))
    order = DataOrder(7, task.examples)
    for step in range(STEPS):
        index = torch.from_numpy(order.take(step * BATCH, BATCH))
        inputs, *targets = (as_double(item[index]) for item in task.train)
        optimizer.zero_grad()
        task.loss(model(inputs), *targets).backward()
        optimizer.step()
    start = dict(task.build_model(derive(7, INITIALISATION)).named_parameters())
    for key, value in model.named_parameters():
        torch.testing.assert_close(stack.parameters(slot)[key], value.detach(), rtol=1e-11, atol=1e-12)
    assert any(not torch.equal(start[key].double(), value) for key, value in model.named_parameters())
    inputs, *targets = (as_double(item) for item in task.valid)
    with torch.no_grad():
        expected = task.loss(model.eval()(inputs), *targets)
    assert stack.evaluate([slot])[0]["valid_loss"] == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_slot_beside_others_keeps_its_bits(name: str, task: Task) -> None:
    """Beside one that overflows to NaN, in another slot, at another batch size."""
    watched = trial(name, 100, "momentum", seed=3)
    broken = TrialSpec(1, {"optimizer": "sgd", "lr": 1e30, "batch_size": 4}, 1, 80, divergence_factor=1e30)
    found = []
    for trials in ([watched], [broken, trial(name, 2, "adamw", lr=1e-3, batch_size=4), watched]):
        rows, _ = run(Stack(task, width=4, micro_batch=4), trials)
        found.append([(row.step, row.metrics, row.noise) for row in rows[100]])
    assert found[0] == found[1]


def as_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def test_listing_names_loads_no_data() -> None:
    code = (
        "import sys; from tuner import workloads; print(*[workloads.describe(n) for n in workloads.names()]);"
        "from tuner.workloads import digits, python_sources;"
        "assert not any('sklearn' in m for m in sys.modules);"
        "assert not python_sources.python_sources.cache_info().currsize"
    )
    root = Path(workloads.__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "perceptron" in done.stdout
