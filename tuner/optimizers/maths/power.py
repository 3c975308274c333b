"""Powers and other transcendental functions of per-trial vectors, with bits independent of a trial's position in its
batch.

torch.pow runs different code in a kernel's vector body and in its scalar tail; they differ in the last bit, so a
trial's bias correction would depend on its position. Reductions have tails too, and other functions may on some CPUs.
Whole blocks have no tail.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 64
"""A multiple of every kernel's step (16 doubles with AVX-512)."""


def whole_blocks(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Return an elementwise function of float64 [T] or [k, T] tensors, computed on whole blocks.

    The arguments are padded with ones, so `function` must be defined there; each is float64 with the same T.
    """
    trials = arguments[0].shape[-1]
    missing = -trials % _BLOCK
    padded = [torch.nn.functional.pad(each, (0, missing), value=1.0).contiguous() for each in arguments]
    return function(*padded)[..., :trials]


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Return base ** exponent, elementwise.

    Args:
        base: float64 [k, T], e.g. (2, 64) for two betas of 64 trials.
        exponent: float64 [T].
    """
    return whole_blocks(torch.pow, base, exponent)
