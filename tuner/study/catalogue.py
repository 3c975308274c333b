"""The catalogue of optimizers and schedules as the server knows it: read from JSON, without torch.

`tuner/optimizers/catalogue.json` is generated from the rules (`make catalogue`); a test holds the two equal.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuner.study.hyperparameter import OptimizerInfo, ScheduleInfo, hyperparameter_from_json

CATALOGUE_PATH = Path(__file__).parent.parent / "optimizers" / "catalogue.json"

BUILT_IN_WORKLOADS: dict[str, str] = {
    "digits-mlp": "scikit-learn's handwritten digits (1,797 images of 8 x 8), a 64-32-10 perceptron",
}
BUILT_IN_METRICS: dict[str, tuple[str, ...]] = {"digits-mlp": ("train_loss", "valid_loss", "valid_accuracy")}
"""Names that the server accepts before any worker has registered."""


@dataclass(frozen=True)
class Catalogue:
    """Everything that a study document may name."""

    optimizers: dict[str, OptimizerInfo]
    schedules: dict[str, ScheduleInfo]


@cache
def load_catalogue() -> Catalogue:
    """Read the generated catalogue."""
    data: dict[str, Any] = json.loads(CATALOGUE_PATH.read_text())

    def build(kind: type[Any], entry: dict[str, Any], key: str) -> Any:
        return kind(**{**entry, key: tuple(hyperparameter_from_json(h) for h in entry[key])})

    return Catalogue(
        optimizers={e["name"]: build(OptimizerInfo, e, "hyperparameters") for e in data["optimizers"]},
        schedules={e["name"]: build(ScheduleInfo, e, "parameters") for e in data["schedules"]},
    )
