"""Every built-in workload at a small size, and the sample of update rules, for the laws that hold for all of them."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from image_sets import write_cifar, write_mnist

from tuner import workloads
from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.optimizers.catalogue import catalogue
from tuner.study.catalogue import BUILT_IN_WORKLOADS
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
VALID = 50
"""Validation examples, at most."""
DROPPING = "text-gpt with dropout"
CASES = [*NAMES, DROPPING]
LR = {"rosenbrock": 1e-5, "linear-regression": 0.02}
"""Of plain gradient descent, where 0.05 is too much."""


@cache
def _files() -> tuple[TemporaryDirectory[str], dict[str, str]]:
    """Write small image sets, once per process; the folder goes with it."""
    folder = TemporaryDirectory()
    places = {"mlp-images": Path(folder.name, "cifar"), "resnet-images": Path(folder.name, "mnist")}
    for place in places.values():
        place.mkdir()
    write_cifar(places["mlp-images"])
    write_mnist(places["resnet-images"], zipped=True, size=10)
    return folder, {name: str(place) for name, place in places.items()}


@cache
def task_of(case: str) -> Task:
    """Return a small task of a workload, built once per process: nothing that runs it may change it."""
    name, _, dropping = case.partition(" with ")
    params = {**SMALL.get(name, {}), **({"dropout": 0.2} if dropping else {})}
    if name in _files()[1]:
        params["directory"] = _files()[1][name]
    task = workloads.load(name, params)
    return replace(task, valid=tuple(part[:VALID] for part in task.valid))


def sampled_rules() -> dict[str, str]:
    """Name a rule of each kind that the engine treats in its own way."""
    return {
        "elementwise": "adamw",
        "matrix": "muon",
        "state per trial": "schedule_free_adamw",
        "loss again": "gd_armijo",
    }


def rate(case: str, optimizer: str) -> float | None:
    """Return a learning rate with which a few steps are tame; None for a rule that has none."""
    if optimizer == "gd_armijo":
        return 64 * LR.get(case, 0.05)
    if optimizer in ("sgd", "momentum", "nesterov"):
        return LR.get(case, 0.05)
    lr = next((h for h in catalogue()[optimizer].hyperparameters if h.name == "lr"), None)
    if lr is None:
        return None
    return lr.search.min if lr.search is not None else float(lr.default)


def signature(row: Row) -> tuple[Any, ...]:
    """Return what two runs of one trial must have in common, to the bit; NaN equals NaN."""
    noise = None if row.noise is None else [repr(value) for value in row.noise.values]
    return row.step, row.examples, {name: repr(value) for name, value in row.metrics.items()}, noise


def run(stack: Stack, trials: list[TrialSpec]) -> tuple[dict[Any, list[Row]], dict[Any, Ended]]:
    """Train trials that fit in the stack to their ends."""
    rows: dict[Any, list[Row]] = {}
    ends: dict[Any, Ended] = {}
    for spec in trials:
        stack.admit(spec)
    while stack.busy:
        sort(stack.tick(), rows, ends)
    return rows, ends


def sort(events: list[Row | Ended], rows: dict[Any, list[Row]], ends: dict[Any, Ended]) -> None:
    """Put events where they belong, by key."""
    for event in events:
        if isinstance(event, Ended):
            ends[event.key] = event
        else:
            rows.setdefault(event.key, []).append(event)
