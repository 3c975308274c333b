"""`digits-mlp`: scikit-learn's handwritten digits (1,797 grey images of 8 x 8) and a 64-32-10 perceptron.

Source of the data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
The split is fixed: 1,437 images to train on and 360 to validate on, drawn once with seed 0 and not stratified, so that
every trial of every study sees the same examples. Inputs are grey levels 0..16 divided by 16.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.errors import Fault, InvalidInput
from tuner.workloads.registry import workload
from tuner.workloads.task import Task

TRAIN_EXAMPLES = 1437
SPLIT_SEED = 0


@workload("digits-mlp")
def digits_mlp(hidden: int = 32) -> Task:
    """scikit-learn's handwritten digits (1,797 images of 8 x 8), a 64-32-10 perceptron."""
    if isinstance(hidden, bool) or not isinstance(hidden, int) or not 1 <= hidden <= 4096:
        raise InvalidInput([Fault("workload.params.hidden", f"is {hidden!r}; allowed is an integer in [1, 4096]")])
    inputs, targets, order = _digits()
    train, valid = order[:TRAIN_EXAMPLES], order[TRAIN_EXAMPLES:]
    return Task(
        model=lambda: nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
        loss=cross_entropy,
        train=(inputs[train], targets[train]),
        valid=(inputs[valid], targets[valid]),
        metrics={"accuracy": accuracy},
    )


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the share of examples whose largest output [N, classes] is the target [N]."""
    return (output.argmax(dim=1) == target).double().mean()


@cache
def _digits() -> tuple[Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits  # only this workload needs scikit-learn

    images, labels = load_digits(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(labels))
    return torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long(), torch.from_numpy(order)
