"""What decides between two ways to compute the same: whether tensors are on the host."""

from torch import Tensor


def is_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is in the host's memory: LAPACK is at hand there, and reductions split rows by threads."""
    return tensor.device.type == "cpu"
