"""Shared by the classification workloads: accuracy."""

from torch import Tensor


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the fraction of examples whose largest output [N, classes] is the target [N]."""
    return (output.argmax(dim=1) == target).double().mean()
