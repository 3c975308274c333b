"""Powers of per-trial vectors, the same bits wherever a trial stands in its batch.

torch.pow runs one code in a kernel's vector body and another in its scalar tail; they differ in the last bit, so a
trial's bias correction would depend on its position. Whole blocks have no tail.
"""

import torch
from torch import Tensor

_BLOCK = 64
"""A multiple of every kernel's step (16 doubles with AVX-512)."""


def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Return base ** exponent, elementwise.

    Args:
        base: float64 [k, T], e.g. (2, 64) for two betas of 64 trials.
        exponent: float64 [T].
    """
    trials = base.shape[1]
    missing = -trials % _BLOCK
    whole_base = torch.nn.functional.pad(base, (0, missing), value=1.0).contiguous()
    whole_exponent = torch.nn.functional.pad(exponent, (0, missing), value=1.0).contiguous()
    return torch.pow(whole_base, whole_exponent)[:, :trials]
