"""The parameters of schedules: a name means the same in all of them, and none is an optimizer's hyperparameter."""

from tuner.study.hyperparameter import Hyperparameter, Search

T = Hyperparameter("t", 0.0, "updates already done", low=0.0)
TOTAL = Hyperparameter("total", 1.0, "total updates", low=0.0, low_open=True)


def _share(name: str, default: float, description: str, search: Search, low_open: bool = False) -> Hyperparameter:
    return Hyperparameter(name, default, description, low=0.0, low_open=low_open, high=1.0, search=search)


def warmup(default: float) -> Hyperparameter:
    """Return the warm-up with a schedule's own default."""
    source = "AlgoPerf, arXiv:2306.07179: 0.05 in its baselines, 0.02-0.1 in its fixed lists; lower bound is ours"
    return _share(
        "warmup",
        default,
        "fraction of all updates over which the learning rate rises linearly to its peak",
        Search(0.01, 0.1, "log", swept=False, source=source),
    )


FLOOR = _share(
    "floor",
    0.0,
    "factor at the end of the decay, as a fraction of the peak",
    Search(
        1e-3,
        0.1,
        "log",
        swept=False,
        source="AlgoPerf, arXiv:2306.07179: end factors 1e-3 and 1e-2; modded-nanogpt: 0.1",
    ),
)
COOLDOWN = _share(
    "cooldown",
    0.2,
    "fraction of all updates, at the end, over which the learning rate falls to its floor",
    Search(
        0.1,
        0.8,
        swept=False,
        source="Hägele et al. 2024, arXiv:2405.18392: 0.2 comes close to cosine; modded-nanogpt: 0.4-0.8; 0.1 is ours",
    ),
)
COOLDOWN_SHAPE = Hyperparameter(
    "cooldown_shape",
    "linear",
    "shape of the cool-down; Hägele et al. 2024 found 1-sqrt best",
    choices=("linear", "1-sqrt", "cosine"),
)
CYCLES = Hyperparameter(
    "cycles",
    1.0,
    "number of times the cosine falls; each except the first begins with a warm restart",
    low=1.0,
    integer=True,
    search=Search(1, 4, swept=False, source="ours"),
)
CYCLE_GROWTH = Hyperparameter(
    "cycle_growth",
    1.0,
    "length of each cycle relative to the previous one",
    low=1.0,
    search=Search(1, 2, swept=False, source="Loshchilov and Hutter 2017, arXiv:1608.03983: 1 and 2"),
)
TIMESCALE = Hyperparameter(
    "timescale",
    0.05,
    "updates, as a fraction of all, in which the squared learning rate halves; equal to warmup in the original",
    low=0.0,
    low_open=True,
    search=Search(0.01, 0.2, "log", swept=False, source="ours, around the usual warm-up"),
)
POWER = Hyperparameter(
    "power",
    1.0,
    "exponent of the decay; 1 is a straight line",
    low=0.0,
    low_open=True,
    search=Search(0.5, 3, swept=False, source="ours; 1 and 2 are common"),
)
FINAL_FACTOR = _share(
    "final_factor",
    0.01,
    "factor at the end, as a fraction of the peak",
    Search(1e-4, 0.1, "log", swept=False, source="ours; includes the end factors of AlgoPerf, arXiv:2306.07179"),
    low_open=True,
)
GAMMA = _share(
    "gamma",
    0.1,
    "factor of each drop of the learning rate",
    Search(0.1, 0.5, "log", swept=False, source="0.1 as torch's StepLR and He et al. 2015; 0.5 is ours"),
)
STEP_SHARE = _share(
    "step_share",
    1 / 3,
    "updates between two drops, as a fraction of those after the warm-up",
    Search(0.2, 0.5, swept=False, source="ours"),
    low_open=True,
)
_MILESTONES = "He et al. 2015, arXiv:1512.03385: 0.5 and 0.75 on CIFAR-10; bounds are ours"
MILESTONE1 = _share(
    "milestone1",
    0.5,
    "fraction of the updates after the warm-up before the first drop",
    Search(0.3, 0.6, swept=False, source=_MILESTONES),
)
MILESTONE2 = _share(
    "milestone2", 0.75, "the same for the second drop", Search(0.6, 0.9, swept=False, source=_MILESTONES)
)
MILESTONE3 = _share(
    "milestone3", 1.0, "the same for the third drop; 1: none", Search(0.9, 1.0, swept=False, source="ours")
)
RISE = _share(
    "rise",
    0.3,
    "fraction of all updates over which the learning rate rises to its peak",
    Search(0.1, 0.5, swept=False, source="0.3 as torch's OneCycleLR; bounds are ours"),
)
START_FACTOR = _share(
    "start_factor",
    0.04,
    "factor of the first update",
    Search(0.01, 0.2, "log", swept=False, source="1/25 as torch's OneCycleLR; bounds are ours"),
)
END_FACTOR = _share(
    "end_factor",
    4e-6,
    "factor of the last update",
    Search(1e-6, 1e-2, "log", swept=False, source="1/250,000 as torch's OneCycleLR; bounds are ours"),
)
