"""`digits-cnn`: the handwritten digits of `digits.py` and two convolutions with batch normalisation.

With batch normalisation the loss depends on which examples share a batch, so trials are trained in whole batches and
measure no gradient noise; `batch_norm: false` gives the plain network.
"""

from torch import nn
from torch.nn.functional import cross_entropy

from tuner.workloads.classification import accuracy
from tuner.workloads.digits import digits
from tuner.workloads.parameters import whole_number, yes_or_no
from tuner.workloads.registry import workload
from tuner.workloads.task import Task


@workload("digits-cnn")
def digits_cnn(channels: int = 8, batch_norm: bool = True) -> Task:
    """scikit-learn's handwritten digits (1,797 images of 8 x 8), two convolutions with batch normalisation."""
    whole_number("channels", channels, 1, 512)
    yes_or_no("batch_norm", batch_norm)

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        for inputs, outputs, stride in ((1, channels, 1), (channels, 2 * channels, 2)):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * channels * 16, 10))

    train, valid = digits()
    return Task(model=model, loss=cross_entropy, train=train, valid=valid, metrics={"accuracy": accuracy})
