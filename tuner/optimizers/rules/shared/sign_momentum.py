"""Shared by Lion and Signum: steps of one size along the sign of a moving average, decoupled decay, their tables.

Single-rounding operations only, so a trial's bits do not depend on its position in the batch.
"""

from torch import Tensor

from tuner.optimizers.entries import learning_rate, weight_decay
from tuner.optimizers.rule import per_trial
from tuner.optimizers.tensors import sign

LR = learning_rate(
    1e-4,
    1e-5,
    1e-2,
    (
        "Chen et al. 2023, arXiv:2302.06675, section 5: 3-10 times smaller than AdamW's; "
        "Wen et al. 2025, arXiv:2509.02046: best 5e-4-1e-3"
    ),
    description="learning rate: the size of every element's step; 0 means no update",
)

WEIGHT_DECAY = weight_decay(
    0.0,
    1e-2,
    10.0,
    (
        "Chen et al. 2023, arXiv:2302.06675, section 5: 3-10 times larger than AdamW's; "
        "Wen et al. 2025, arXiv:2509.02046: best 0.6-0.7"
    ),
)


def sign_descend(param: Tensor, direction: Tensor, lr: Tensor, shrink: Tensor) -> None:
    """Set param ← param · shrink - lr · sign(direction) in place; the sign of 0 is 0, that of NaN is NaN.

    Args:
        param: [T, ...], e.g. (64, 256, 64).
        direction: like `param`; not modified.
        lr: [T].
        shrink: 1 - lr · weight_decay, [T].
    """
    param.mul_(per_trial(shrink, param)).sub_(sign(direction).mul_(per_trial(lr, param)))
