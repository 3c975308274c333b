"""What the classification workloads share: the metric next to the loss."""

from torch import Tensor


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the share of examples whose largest output [N, classes] is the target [N]."""
    return (output.argmax(dim=1) == target).double().mean()
