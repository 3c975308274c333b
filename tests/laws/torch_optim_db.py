"""torch's own list of optimizer configurations and error cases, by the name of torch's class."""

import warnings
from functools import cache
from typing import Any

import pytest
import torch

IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
"""Arguments of torch's classes that choose an implementation, not an optimizer."""


@cache
def entries() -> dict[str, Any]:
    """Load the list without what importing it leaves behind: it would forbid to set any backend's flags."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        from torch.testing._internal.common_optimizers import optim_db
    return {info.optim_cls.__name__: info for info in optim_db}
