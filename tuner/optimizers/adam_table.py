"""The hyperparameters that Adam and its relatives share, with their ranges and sources."""

from tuner.study.hyperparameter import Hyperparameter, Search

_ALGOPERF = "AlgoPerf, arXiv:2306.07179, AdamW search space"

LR = Hyperparameter(
    name="lr",
    default=1e-3,
    description="learning rate: about the size of each element's step; 0 moves nothing",
    low=0.0,
    search=Search(
        min=1e-4,
        max=3e-2,
        scaling="log",
        source=f"{_ALGOPERF}: 1e-4-1e-2, log; raised to 3e-2 by us (best on a 64-32-10 perceptron: 4e-3-2e-2)",
    ),
)

BETA1 = Hyperparameter(
    name="beta1",
    default=0.9,
    description="decay of the first moment",
    low=0.0,
    high=1.0,
    high_open=True,
    search=Search(min=0.5, max=0.98, scaling="reverse_log", source=f"{_ALGOPERF}: 1 - beta1 in 0.02-0.5, log"),
)

BETA2 = Hyperparameter(
    name="beta2",
    default=0.999,
    description="decay of the second moment",
    low=0.0,
    high=1.0,
    high_open=True,
    search=Search(
        min=0.6,
        max=0.999,
        scaling="reverse_log",
        swept=False,
        source=f"{_ALGOPERF}: 1 - beta2 in 1e-3-0.4, log",
    ),
)

EPS = Hyperparameter(
    name="eps",
    default=1e-8,
    description="added to the root of the second moment; a large one makes the step like momentum's",
    low=0.0,
    search=Search(
        min=1e-10,
        max=1e-3,
        scaling="log",
        swept=False,
        source="Choi et al. 2019, arXiv:1910.05446: eps matters over many decades; the ends are ours",
    ),
)

DECOUPLED_DECAY = Hyperparameter(
    name="weight_decay",
    default=1e-2,
    description="decoupled decay: each step shrinks the parameter by the factor 1 - lr · weight_decay",
    low=0.0,
    search=Search(min=5e-3, max=1.0, scaling="log", source=f"{_ALGOPERF}: 5e-3-1, log"),
)
