"""`digits-mlp`: the handwritten digits of `digits.py` and a 64-32-10 perceptron."""

from torch import nn
from torch.nn.functional import cross_entropy

from tuner.workloads.classification import accuracy
from tuner.workloads.digits import digits
from tuner.workloads.parameters import number, whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task
from tuner.workloads.value import Value


@workload("digits-mlp")
def digits_mlp(hidden: int = 32, dropout: Value = 0.0) -> Task:
    """scikit-learn's handwritten digits (1,797 images of 8 x 8), a 64-32-10 perceptron."""
    whole_number("hidden", hidden, 1, 4096)
    number("dropout", dropout, 0, 1)
    train, valid = digits()

    def model() -> nn.Module:
        drop = [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), *drop, nn.Linear(hidden, 10))

    return Task(
        model=model,
        loss=cross_entropy,
        train=train,
        valid=valid,
        metrics={"accuracy": accuracy},
    )
