"""`mlp-images`: MNIST, Fashion-MNIST or CIFAR-10 from a directory on the worker, and a perceptron."""

from itertools import pairwise

from torch import nn
from torch.nn.functional import cross_entropy

from tuner.workloads.classification import accuracy
from tuner.workloads.image_files import CLASSES
from tuner.workloads.images import Standardise, images
from tuner.workloads.parameters import whole_number
from tuner.workloads.registry import workload
from tuner.workloads.task import Task


@workload("mlp-images")
def mlp_images(directory: str, hidden: int = 256, layers: int = 1, precision: str = "float32") -> Task:
    """MNIST, Fashion-MNIST (IDX files) or CIFAR-10 (binary version) from `directory`, a perceptron."""
    whole_number("hidden", hidden, 1, 16_384)
    whole_number("layers", layers, 1, 16)
    data = images(directory)
    pixels = data.train[0]
    statistics = Standardise.statistics(pixels)

    def model() -> nn.Module:
        sizes = [pixels[0].numel(), *[hidden] * layers]
        parts: list[nn.Module] = [Standardise(*statistics), nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(hidden, CLASSES))

    metrics = {"accuracy": accuracy}
    return Task(model, cross_entropy, data.train, data.valid, metrics=metrics, precision=precision)
