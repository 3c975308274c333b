"""The catalogue of optimizers and schedules as the server knows it: read from JSON, without torch.

`tuner/optimizers/catalogue.json` is generated from the rules (`make catalogue`); a test checks that they match.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuner.study.hyperparameter import OptimizerInfo, ScheduleInfo, hyperparameter_from_json

CATALOGUE_PATH = Path(__file__).parent.parent / "optimizers" / "catalogue.json"

_DIGITS = "scikit-learn's handwritten digits (1,797 images of 8 x 8)"
_IMAGES = "MNIST, Fashion-MNIST (IDX files) or CIFAR-10 (binary version) from `directory`"
BUILT_IN_WORKLOADS: dict[str, str] = {
    "digits-autoencoder": f"{_DIGITS}, reconstructed from a code of 8 numbers",
    "digits-cnn": f"{_DIGITS}, two convolutions with batch normalisation",
    "digits-mlp": f"{_DIGITS}, a 64-32-10 perceptron",
    "linear-regression": "Linear regression on synthetic data; noise scale and best loss are known in closed form",
    "logistic-regression": "scikit-learn's breast cancer data (569 cases, 30 features), logistic regression: convex",
    "mlp-images": f"{_IMAGES}, a perceptron",
    "noisy-quadratic": (
        "A quadratic with curvatures 1, 1/2, ... 1/100 and a jittering centre; noise scale known in closed form"
    ),
    "resnet-images": f"{_IMAGES}, a residual network",
    "rosenbrock": "Rosenbrock's curved valley: deterministic, minimum 0 at (1, ..., 1)",
    "text-gpt": "A byte-level GPT on the Python standard library's source files",
}
EXTERNAL = "external"
"""The workload of studies whose trials are trained by the user's own code (`tuner/study/external.py`)."""
EXTERNAL_WORDS = "Your own loop (`Client.ask`) or script (`tuner worker --command`), with any hyperparameters"
_LOSSES = ("train_loss", "valid_loss")
_METRICS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("digits-cnn", "digits-mlp", "logistic-regression", "mlp-images", "resnet-images"), ("valid_accuracy",)
    ),
    "text-gpt": ("valid_bits_per_byte",),
}
BUILT_IN_METRICS: dict[str, tuple[str, ...]] = {
    name: (*_LOSSES, *_METRICS.get(name, ())) for name in BUILT_IN_WORKLOADS
}
"""Names that the server accepts before any worker has registered."""


@dataclass(frozen=True)
class Catalogue:
    """Everything that a study document may name."""

    optimizers: dict[str, OptimizerInfo]
    schedules: dict[str, ScheduleInfo]


@cache
def load_catalogue() -> Catalogue:
    """Read the generated catalogue."""
    data: dict[str, Any] = json.loads(CATALOGUE_PATH.read_text("utf-8"))

    def build(kind: type[Any], entry: dict[str, Any], key: str) -> Any:
        return kind(**{**entry, key: tuple(hyperparameter_from_json(h) for h in entry[key])})

    return Catalogue(
        optimizers={e["name"]: build(OptimizerInfo, e, "hyperparameters") for e in data["optimizers"]},
        schedules={e["name"]: build(ScheduleInfo, e, "parameters") for e in data["schedules"]},
    )
