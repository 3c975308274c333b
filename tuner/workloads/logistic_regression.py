"""`logistic-regression`: a convex problem on real data, scikit-learn's breast cancer set (569 cases, 30 features).

Source of the data: W. Wolberg and others, Breast Cancer Wisconsin (Diagnostic), UCI, 1995.
The split is fixed: 455 cases to train on and 114 to validate on, drawn once with seed 0. Features are standardised with
the training cases' means and standard deviations. Without weight decay the classes may be separable: the loss then has
no minimum, only an infimum.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tuner.workloads.registry import workload
from tuner.workloads.task import Data, Task

TRAIN_EXAMPLES = 455
SPLIT_SEED = 0


@workload("logistic-regression")
def logistic_regression() -> Task:
    """scikit-learn's breast cancer data (569 cases, 30 features), logistic regression: convex."""
    train, valid = _cases()
    return Task(
        model=lambda: nn.Sequential(nn.Linear(30, 1), nn.Flatten(0)),
        loss=binary_cross_entropy_with_logits,
        train=train,
        valid=valid,
        metrics={"accuracy": accuracy},
    )


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the fraction of examples whose logit [N] has the sign of its target [N] of 0 or 1."""
    return ((output > 0) == (target > 0.5)).double().mean()


@cache
def _cases() -> tuple[Data, Data]:
    from sklearn.datasets import load_breast_cancer  # only code that reads its data needs scikit-learn

    features, labels = load_breast_cancer(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(labels))
    train, valid = order[:TRAIN_EXAMPLES], order[TRAIN_EXAMPLES:]
    scaled = (features - features[train].mean(0)) / features[train].std(0)
    inputs, targets = torch.from_numpy(scaled).float(), torch.from_numpy(labels).float()
    return (inputs[train], targets[train]), (inputs[valid], targets[valid])
