"""Shared by LARS and LAMB: steps per tensor, scaled to the size of the tensor.

Norms are per trial and tensor, never over trials.
"""

import torch
from torch import Tensor

from tuner.optimizers.entries import choice
from tuner.optimizers.rule import Role
from tuner.optimizers.sums import norm

EXCLUDED = choice(
    "excluded",
    "vectors",
    "parameters without trust ratio and weight decay: vectors (biases and gains), or none",
    "none",
)


def is_excluded(role: Role, excluded: object) -> bool:
    """Return whether a parameter of this role steps without trust ratio and weight decay."""
    return excluded == "vectors" and role == "vector"


def trust_ratio(param: Tensor, update: Tensor, coefficient: Tensor | float = 1.0) -> Tensor:
    """Return coefficient · |p| / |u| of each trial, float64 [T], and 1 where either norm is 0.

    Args:
        param: [T, ...], e.g. (64, 256, 64).
        update: like `param`.
        coefficient: float64 [T] or a number.
    """
    size, length = norm(param), norm(update)
    return torch.where((size == 0) | (length == 0), 1.0, coefficient * size / length)
