"""`digits-autoencoder`: the handwritten digits of `digits.py`, compressed to a few numbers and reconstructed.

The loss is the mean squared error per pixel, with pixels in [0, 1].
"""

from itertools import pairwise

from torch import nn
from torch.nn.functional import mse_loss

from tuner.workloads.digits import digits
from tuner.workloads.parameters import whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task


@workload("digits-autoencoder")
def digits_autoencoder(hidden: int = 32, code: int = 8) -> Task:
    """scikit-learn's handwritten digits (1,797 images of 8 x 8), reconstructed from a code of 8 numbers."""
    whole_number("hidden", hidden, 1, 4096)
    whole_number("code", code, 1, 4096)

    def model() -> nn.Module:
        sizes = [64, hidden, code, hidden, 64]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    (train, _), (valid, _) = digits()
    return Task(model=model, loss=mse_loss, train=(train, train), valid=(valid, valid))
