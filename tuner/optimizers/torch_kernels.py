"""torch's fused kernels as the update of one trial: each number is read once and written once, without compiling.

The only file that calls them. They step lists of contiguous tensors in place, with plain numbers for hyperparameters.
On a CPU a tensor is cut into pieces of whole 64-byte lines, however many threads share them, so a tensor of whole lines
gets the same bits wherever it lies. Their roundings differ in the last bits from the formula written out, and one
optimizer never mixes the two for a tensor.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda")
"""Where torch has all of them."""
SHARED = 2**15
"""Number of elements from which torch's elementwise operations use more than one thread; these kernels always do."""
_LEAST = math.ulp(0.0)


class Kernel(Protocol):
    """One update of one trial's tensors."""

    def __call__(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        buffers: Sequence[list[Tensor]],
        steps: list[Tensor],
        hp: Mapping[str, float],
        scale: Tensor | None = None,
    ) -> None:
        """Step `params` and `buffers` (in the order of the rule's) in place.

        Args:
            params: contiguous, of any shapes.
            grads: one per parameter, of its shape; divided in place by `scale`, if it is given.
            buffers: one list per buffer, like `params`.
            steps: per parameter the number of this update, 1 for the first: float32, without axes, on its device.
            hp: the rule's own hyperparameters.
            scale: float32, without axes.
        """


def adam(*, decoupled: bool, amsgrad: bool = False) -> Kernel:
    """Return Adam with coupled or decoupled weight decay; the buffers are both moments, then AMSGrad's maximum."""
    return partial(_adam, decoupled, amsgrad)


def sgd(*, nesterov: bool = False) -> Kernel:
    """Return the heavy ball or Nesterov's form of it; without buffers plain SGD."""
    return partial(_sgd, nesterov)


@contextmanager
def own_threads(elements: int) -> Iterator[None]:
    """Let the kernels use as many threads for tensors of this size as torch's other operations do."""
    threads = torch.get_num_threads()
    if threads == 1 or elements >= SHARED:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _adam(
    decoupled: bool,
    amsgrad: bool,
    params: list[Tensor],
    grads: list[Tensor],
    buffers: Sequence[list[Tensor]],
    steps: list[Tensor],
    hp: Mapping[str, float],
    scale: Tensor | None = None,
) -> None:
    call = torch._fused_adamw_ if decoupled else torch._fused_adam_
    call(
        params,
        grads,
        buffers[0],
        buffers[1],
        buffers[2] if amsgrad else [],
        steps,
        lr=hp["lr"],
        beta1=hp["beta1"],
        beta2=hp["beta2"],
        weight_decay=hp["weight_decay"],
        eps=hp["eps"],
        amsgrad=amsgrad,
        maximize=False,
        grad_scale=scale,
    )


def _sgd(
    nesterov: bool,
    params: list[Tensor],
    grads: list[Tensor],
    buffers: Sequence[list[Tensor]],
    steps: list[Tensor],
    hp: Mapping[str, float],
    scale: Tensor | None = None,
) -> None:
    # At momentum 0 torch would leave the buffer as it is; the least number above 0 is as good as 0 and fills it.
    momentum = (hp["momentum"] or _LEAST) if buffers else 0.0
    torch._fused_sgd_(
        params,
        grads,
        buffers[0] if buffers else [],
        weight_decay=hp["weight_decay"],
        momentum=momentum,
        lr=hp["lr"],
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
        grad_scale=scale,
    )
