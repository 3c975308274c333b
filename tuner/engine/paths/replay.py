"""A compiled program on a GPU, recorded as a CUDA graph and replayed: one launch per tick, regardless of the number of
kernels.

A graph reads and writes fixed addresses. The stack's own buffers have them anyway; inputs that change from tick to tick
(examples, dropout draws) are copied into the graph's own tensors. Nothing here waits for the device. Not yet run on a
GPU: the tests replay by calling the program again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Replay:
    """`program(changing)` as a graph; its result is overwritten by the next call."""

    def __init__(self, program: Callable[[Sequence[Tensor]], Tensor], changing: Sequence[Tensor]) -> None:
        """Record the program for tensors like `changing`. It must have run before: recording executes nothing."""
        self._changing = [tensor.clone() for tensor in changing]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = program(self._changing)

    def __call__(self, changing: Sequence[Tensor]) -> Tensor:
        """Replay the graph on these inputs."""
        for own, given in zip(self._changing, changing, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result
