"""Shared by SGD, heavy-ball momentum and Nesterov: coupled weight decay, the accumulated gradient, their tables.

Single-rounding operations only, so a trial's bits do not depend on its position in the batch.
"""

from torch import Tensor

from tuner.optimizers.entries import below_one, learning_rate, weight_decay
from tuner.optimizers.rule import per_trial

LR = learning_rate(
    0.01,
    1e-3,
    1.0,
    (
        "ours, measured with momentum 0.9 on a 64-32-10 perceptron (digits): best 0.02-0.1 at batch 16, 0.2-0.5 at "
        "256; 0.2 and 1 are too large (AlgoPerf, arXiv:2306.07179, searches 0.02-5 on large workloads)"
    ),
    description="learning rate: the step is lr times the direction; 0 means no update",
)

MOMENTUM = below_one(
    "momentum",
    0.9,
    "fraction of the accumulated gradient kept at each step; steps grow to lr / (1 - momentum)",
    0.7,
    0.995,
    "AlgoPerf, arXiv:2306.07179, heavy-ball and Nesterov search spaces: 1 - momentum in 0.005-0.3, log",
    swept=True,
)

WEIGHT_DECAY = weight_decay(
    0.0,
    1e-7,
    1e-3,
    (
        "AlgoPerf, arXiv:2306.07179: 1e-7-5e-5, log; raised to 1e-3 to include the 5e-4 of "
        "wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146)"
    ),
    description="coupled L2 penalty: weight_decay times the parameter is added to the gradient",
    swept=False,
)


def penalised(grad: Tensor, param: Tensor, weight_decay: Tensor) -> Tensor:
    """Return grad + weight_decay · param as a new tensor.

    Args:
        grad: [T, ...], e.g. (64, 256, 64); not modified.
        param: like `grad`.
        weight_decay: float64 [T].
    """
    return (param * per_trial(weight_decay, param)).add_(grad)


def accumulate(buffer: Tensor, grad: Tensor, momentum: Tensor) -> None:
    """Set buffer ← momentum · buffer + grad in place; from a zero buffer the first step gives grad itself.

    Args:
        buffer: [T, ...], e.g. (64, 256, 64).
        grad: like `buffer`.
        momentum: float64 [T].
    """
    buffer.mul_(per_trial(momentum, buffer)).add_(grad)


def descend(param: Tensor, direction: Tensor, lr: Tensor) -> None:
    """Set param ← param - lr · direction in place; all [T, ...], lr float64 [T]."""
    param.sub_(direction * per_trial(lr, param))
