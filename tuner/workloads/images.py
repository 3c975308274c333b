"""Shared by `mlp-images` and `resnet-images`: the data set of a directory and the layer that standardises it.

Images stay bytes until the model sees them (a quarter of the memory); its first layer subtracts the training images'
mean per channel and divides by their standard deviation.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from tuner.workloads.image_files import Images, read_images


@lru_cache(maxsize=1)
def images(directory: str) -> Images:
    """Read a directory's data set once. Raises `DataFault` as `read_images` does."""
    return read_images(directory)


class Standardise(nn.Module):
    """Map bytes [b, channels, height, width] to numbers of mean 0 and standard deviation 1 per channel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None].clone())
        self.register_buffer("scale", scale[:, None, None].clone())

    @staticmethod
    def statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / standard deviation [channels] of bytes [n, channels, height, width]."""
        levels = torch.arange(256, dtype=torch.float64)
        counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.transpose(0, 1)])
        shares = counts.double() / counts.sum(1, keepdim=True)
        mean = shares @ levels
        variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
        return mean.float(), (1 / variance.clamp_min(1.0).sqrt()).float()  # a constant channel stays finite

    def forward(self, pixels: Tensor) -> Tensor:
        """Standardise."""
        return (pixels.to(self.mean.dtype) - self.mean) * self.scale
