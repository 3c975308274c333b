"""The shape of each schedule's decay: functions of a `Moment`, with factors in [0, 1], excluding the warm-up."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tuner.schedules.moment import Moment

NEAR = 1e-9
"""Progress this close to the end of an interval counts as past it, because t / total is rounded."""


def constant(at: Moment) -> Tensor:
    """Return 1."""
    return torch.ones_like(at.progress)


def linear(at: Moment) -> Tensor:
    """Return floor + (1 - floor) · (1 - q)."""
    return _above(at.numbers["floor"], 1 - at.progress)


def polynomial(at: Moment) -> Tensor:
    """Return floor + (1 - floor) · (1 - q)^power."""
    return _above(at.numbers["floor"], _power(1 - at.progress, at.numbers["power"]))


LARGEST_LOG = 700.0
"""Of a length that is still counted in units of the first cycle: exp(709.8) is the largest number."""


def cosine(at: Moment) -> Tensor:
    """Return half a cosine from 1 to the floor, `cycles` times, each `cycle_growth` times as long as the previous one.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, eq. (5).
    """
    q, cycles, growth = at.progress, at.numbers["cycles"], at.numbers["cycle_growth"]
    even = growth - 1 < NEAR
    ratio = torch.where(even, 2.0, growth)
    whole = _power(ratio, cycles) - 1
    """Length of all cycles, in units of the first, times ratio - 1."""
    log = torch.log(ratio)
    enormous = cycles * log > LARGEST_LOG
    """The first cycle is then too short for any update to fall into it: what is left of the lengths is their logs."""
    rest = (cycles + torch.log(q) / log).clamp(min=0)
    number = torch.where(even, q * cycles, torch.where(enormous, rest, torch.log1p(q * whole) / log))
    index = torch.minimum((number + NEAR).floor(), cycles - 1)
    before = _power(ratio, index)
    grown = torch.where(enormous, torch.exp((number - index) * log) - 1, (q * whole + 1 - before) / before)
    within = torch.where(even, q * cycles - index, grown / (ratio - 1))
    return _above(at.numbers["floor"], 0.5 + 0.5 * torch.cos(math.pi * within.clamp(min=0, max=1)))


def wsd(at: Moment) -> Tensor:
    """Return 1, then a fall to the floor, of the chosen shape, over the last fraction `cooldown` of all updates.

    Source: Hägele et al. 2024, https://arxiv.org/abs/2405.18392, eq. (1) and (2).
    """
    q = at.progress_from(at.total - at.numbers["cooldown"] * at.total)
    return _above(at.numbers["floor"], _COOLDOWNS[at.choices["cooldown_shape"]](q))


_COOLDOWNS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda q: 1 - q,
    "1-sqrt": lambda q: 1 - q.sqrt(),
    "cosine": lambda q: 0.5 + 0.5 * torch.cos(math.pi * q),
}


def inverse_sqrt(at: Moment) -> Tensor:
    """Return 1 / sqrt(1 + (t - W) / S) after the warm-up, S = timescale · total.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. (3), where S = W.
    """
    scale = at.numbers["timescale"] * at.total
    return torch.rsqrt(1 + (at.t - at.warm).clamp(min=0) / scale)


def exponential(at: Moment) -> Tensor:
    """Return final_factor^q: every update multiplies by the same number."""
    return _power(at.numbers["final_factor"], at.progress)


def step(at: Moment) -> Tensor:
    """Return gamma^n after n intervals, each a fraction `step_share` of the updates after the warm-up."""
    return _power(at.numbers["gamma"], (at.progress / at.numbers["step_share"] + NEAR).floor())


def multistep(at: Moment) -> Tensor:
    """Return gamma^n after n of the milestones, which are fractions of the updates after the warm-up."""
    share = at.progress + NEAR
    passed = torch.zeros_like(share)
    for name in ("milestone1", "milestone2", "milestone3"):
        passed = passed + (share >= at.numbers[name])
    return _power(at.numbers["gamma"], passed)


def one_cycle(at: Moment) -> Tensor:
    """Return half a cosine up from start_factor to 1 at update rise · total - 1, then half a cosine down to end_factor.

    It ends at the last update, total - 1.

    Source: Smith and Topin 2018, https://arxiv.org/abs/1708.07120; torch.optim.lr_scheduler.OneCycleLR, two phases.
    """
    peak, last = at.numbers["rise"] * at.total - 1, at.total - 1
    up = at.t / peak.clamp(min=NEAR)
    down = (at.t - peak) / (last - peak).clamp(min=NEAR)
    rising = at.t < peak
    share = 0.5 - 0.5 * torch.cos(math.pi * torch.where(rising, up, down).clamp(min=0, max=1))
    low, start = at.numbers["end_factor"], at.numbers["start_factor"]
    return torch.where(rising, start + (1 - start) * share, 1 + (low - 1) * share)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """Return base^exponent for base >= 0; torch.pow would round differently in a kernel's tail."""
    return torch.where(exponent == 0, 1.0, torch.exp(exponent * torch.log(base)))


def _above(floor: Tensor, share: Tensor) -> Tensor:
    return floor + (1 - floor) * share
