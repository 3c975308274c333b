"""The vocabulary of stacked tensors: a leading axis of T trials, and vectors [T] with one number per trial."""

from typing import Literal

import torch
from torch import Tensor

Role = Literal["matrix", "convolution", "embedding", "head", "vector"]
"""The role of a parameter for matrix rules; see roles.py."""

FLOAT_TYPES = (torch.float32, torch.float64)
"""Types of parameters: in bfloat16 a beta of 0.999 would round to 1."""

Tensors = dict[str, Tensor]
"""Named tensors, each [T, ...]."""


def per_trial(value: Tensor, like: Tensor) -> Tensor:
    """Shape a per-trial vector [T] so that it broadcasts over `like` [T, ...], in like's dtype.

    Do scalar arithmetic (bias corrections, 1 - beta) on the float64 vector first and convert last: 1 - float32(0.999)
    is off by 1.3e-5 relative.
    """
    return value.to(like.dtype).reshape(-1, *(1,) * (like.dim() - 1))


def sign(tensor: Tensor) -> Tensor:
    """Return -1, 0 or 1 for each element, and NaN for one that is not finite: torch's sign of NaN is 0."""
    return torch.where(tensor.isfinite(), tensor.sign(), torch.nan)
