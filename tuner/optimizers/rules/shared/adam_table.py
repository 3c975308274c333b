"""The hyperparameters that Adam and its relatives share, with their ranges and sources."""

from tuner.optimizers.entries import decay_rate, learning_rate, non_negative, weight_decay

_ALGOPERF = "AlgoPerf, arXiv:2306.07179, AdamW search space"

LR = learning_rate(
    1e-3,
    1e-4,
    3e-2,
    f"{_ALGOPERF}: 1e-4-1e-2, log; raised to 3e-2 by us (best on a 64-32-10 perceptron: 4e-3-2e-2)",
    description="learning rate: about the size of each element's step; 0 means no update",
)

BETA1 = decay_rate("beta1", 0.9, "the first moment", 0.5, 0.98, f"{_ALGOPERF}: 1 - beta1 in 0.02-0.5, log", swept=True)

BETA2 = decay_rate("beta2", 0.999, "the second moment", 0.6, 0.999, f"{_ALGOPERF}: 1 - beta2 in 1e-3-0.4, log")

EPS = non_negative(
    "eps",
    1e-8,
    "added to the root of the second moment; a large one makes the step like momentum's",
    1e-10,
    1e-3,
    "Choi et al. 2019, arXiv:1910.05446: eps matters over many decades; the bounds are ours",
)

DECOUPLED_DECAY = weight_decay(1e-2, 5e-3, 1.0, f"{_ALGOPERF}: 5e-3-1, log")
