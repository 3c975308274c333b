"""A workload of its own file, whose model's shape, kind and numbers a study searches. Its name is `own-models`."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tuner


@tuner.workload("own-models")
def own_models(
    width: int,
    activation: Literal["relu", "gelu", "none"] = "none",
    norm: bool = False,
    dropout: tuner.Value = 0.0,
    smoothing: tuner.Value = 0.0,
) -> tuner.Task:
    """A small classification problem."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(256, 6, generator=generator)
    y = (x @ torch.randn(6, 3, generator=generator)).argmax(1)

    def model() -> nn.Module:
        middle: list[nn.Module] = {"relu": [nn.ReLU()], "gelu": [nn.GELU()], "none": []}[activation]
        middle += [nn.LayerNorm(width)] if norm else []
        return nn.Sequential(nn.Linear(6, width), *middle, nn.Dropout(dropout), nn.Linear(width, 3))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        even = -output.log_softmax(1).mean()
        return (1 - smoothing) * cross_entropy(output, target) + smoothing * even

    def trained_width(output: Tensor, target: Tensor) -> float:
        return float(width)

    return tuner.Task(model, loss, (x, y), (x[:64], y[:64]), metrics={"width": trained_width})
