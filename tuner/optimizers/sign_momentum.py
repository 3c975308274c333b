"""What Lion and Signum share: steps of one size along the sign of a moving average, decoupled decay, their tables.

Single-rounding operations only, so a trial's bits do not depend on where in the batch it stands.
"""

from torch import Tensor

from tuner.optimizers.rule import per_trial
from tuner.study.hyperparameter import Hyperparameter, Search

LR = Hyperparameter(
    name="lr",
    default=1e-4,
    description="learning rate: the size of every element's step; 0 moves nothing",
    low=0.0,
    search=Search(
        min=1e-5,
        max=1e-2,
        scaling="log",
        source=(
            "Chen et al. 2023, arXiv:2302.06675, section 5: 3-10 times smaller than AdamW's; "
            "Wen et al. 2025, arXiv:2509.02046: best 5e-4-1e-3"
        ),
    ),
)

WEIGHT_DECAY = Hyperparameter(
    name="weight_decay",
    default=0.0,
    description="decoupled decay: each step shrinks the parameter by the factor 1 - lr · weight_decay",
    low=0.0,
    search=Search(
        min=1e-2,
        max=10.0,
        scaling="log",
        source=(
            "Chen et al. 2023, arXiv:2302.06675, section 5: 3-10 times larger than AdamW's; "
            "Wen et al. 2025, arXiv:2509.02046: best 0.6-0.7"
        ),
    ),
)


def sign_descend(param: Tensor, direction: Tensor, lr: Tensor, shrink: Tensor) -> None:
    """Set param ← param · shrink - lr · sign(direction) in place; the sign of 0 is 0.

    Args:
        param: [T, ...], e.g. (64, 256, 64).
        direction: like `param`; left as it is.
        lr: [T].
        shrink: 1 - lr · weight_decay, [T].
    """
    param.mul_(per_trial(shrink, param)).sub_(direction.sign().mul_(per_trial(lr, param)))
