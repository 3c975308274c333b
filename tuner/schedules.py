"""Learning-rate schedules as closed-form multipliers of (t, total, parameters), for one trial or for many.

Conventions. `t` counts the updates already done: the first update has t = 0, the last t = total - 1. Warm-up is counted
inside `total`: with W = warmup · total, update t has the factor (t + 1) / W until it reaches 1, so it is never 0. The
decay runs over what is left, from 1 at t = W to the floor at t = total: the last update still moves, as in
torch.optim.lr_scheduler. `floor` is a share of the peak. Weight decay that is multiplied by lr follows the schedule.

Nothing depends on the past, so a trial resumes at any t; nothing depends on the neighbours, so a trial's factor is the
same bit for bit in any batch. Computed in float64.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.study.hyperparameter import Hyperparameter, ScheduleInfo, Search

Value = Tensor | float


def catalogue() -> dict[str, ScheduleInfo]:
    """Return what is known of every schedule, by name."""
    return {name: schedule.info for name, schedule in _SCHEDULES.items()}


@overload
def multiplier(name: str, t: float, total: float, **parameters: float) -> float: ...
@overload
def multiplier(name: str, t: Value, total: Value, **parameters: Value) -> Value: ...
def multiplier(name: str, t: Value, total: Value, **parameters: Value) -> Value:
    """Return the factor in [0, 1] by which the learning rate is multiplied at update `t`.

    Args:
        name: constant, linear, cosine or wsd.
        t: updates already done, >= 0; a number or one per trial, e.g. [64]. After `total` the floor holds.
        total: updates in all, > 0; a number or one per trial.
        parameters: of the schedule, a number or one per trial; those left out take their defaults.

    Returns:
        A float if every argument is a number, else a float64 tensor of the broadcast shape.

    Raises:
        InvalidInput: an unknown schedule or parameter, or a number that is not legal. Tensors are taken as they are:
            to check them would wait for the device.
    """
    if name not in _SCHEDULES:
        raise InvalidInput([Fault("schedule", f"{name!r} is not known; known are {', '.join(_SCHEDULES)}")])
    schedule = _SCHEDULES[name]
    _check(schedule.info, t, total, parameters)
    values: dict[str, Value] = {**{p.name: float(p.default) for p in schedule.info.parameters}, **parameters}
    like = next((value for value in (t, total, *values.values()) if isinstance(value, Tensor)), None)
    device = None if like is None else like.device
    tensors = {key: torch.as_tensor(value, dtype=torch.float64, device=device) for key, value in values.items()}
    now = torch.as_tensor(t, dtype=torch.float64, device=device)
    end = torch.as_tensor(total, dtype=torch.float64, device=device)
    warm = tensors["warmup"] * end
    factor = ((now + 1) / warm.clamp(min=1)).clamp(max=1) * schedule.decay(now, end, warm, tensors)
    return factor if like is not None else float(factor)


def _constant(now: Tensor, end: Tensor, warm: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    return torch.ones_like(now)


def _linear(now: Tensor, end: Tensor, warm: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    return _between(1 - _progress(now, warm, end), parameters["floor"])


def _cosine(now: Tensor, end: Tensor, warm: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    return _between(0.5 + 0.5 * torch.cos(math.pi * _progress(now, warm, end)), parameters["floor"])


def _wsd(now: Tensor, end: Tensor, warm: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    start = end - parameters["cooldown"] * end
    return _between(1 - _progress(now, start, end), parameters["floor"])


def _progress(now: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return 0 up to `start`, then linear to 1 at `end`; a stretch of no length is a jump after `end`."""
    return ((now - start) / (end - start).clamp(min=1e-9)).clamp(min=0, max=1)


def _between(share: Tensor, floor: Tensor) -> Tensor:
    return floor + (1 - floor) * share


def _check(info: ScheduleInfo, t: Value, total: Value, parameters: Mapping[str, Value]) -> None:
    declared = {p.name: p for p in (_T, _TOTAL, *info.parameters)}
    faults = []
    for key, value in {"t": t, "total": total, **parameters}.items():
        if key not in declared:
            known = ", ".join(p.name for p in info.parameters)
            faults.append(Fault(key, f"schedule {info.name} has no such parameter; it has {known}"))
        elif not isinstance(value, Tensor) and (message := declared[key].fault(value)):
            faults.append(Fault(key, message))
    if faults:
        raise InvalidInput(faults)


_T = Hyperparameter("t", 0.0, "updates already done", low=0.0)
_TOTAL = Hyperparameter("total", 1.0, "updates in all", low=0.0, low_open=True)


def _warmup(default: float) -> Hyperparameter:
    return Hyperparameter(
        name="warmup",
        default=default,
        description="share of all updates over which the learning rate rises linearly to its peak",
        low=0.0,
        high=1.0,
        search=Search(
            min=0.01,
            max=0.1,
            scaling="log",
            swept=False,
            source="AlgoPerf, arXiv:2306.07179: 0.05 in its baselines, 0.02-0.1 in its fixed lists; lower end is ours",
        ),
    )


_FLOOR = Hyperparameter(
    name="floor",
    default=0.0,
    description="factor at the end of the decay, as a share of the peak",
    low=0.0,
    high=1.0,
    search=Search(
        min=1e-3,
        max=0.1,
        scaling="log",
        swept=False,
        source="AlgoPerf, arXiv:2306.07179: end factors 1e-3 and 1e-2; modded-nanogpt: 0.1",
    ),
)

_COOLDOWN = Hyperparameter(
    name="cooldown",
    default=0.2,
    description="share of all updates over which the learning rate falls linearly to its floor, at the end",
    low=0.0,
    high=1.0,
    search=Search(
        min=0.1,
        max=0.8,
        scaling="linear",
        swept=False,
        source="Hägele et al. 2024, arXiv:2405.18392: 0.2 comes close to cosine; modded-nanogpt: 0.4-0.8; 0.1 is ours",
    ),
)


@dataclass(frozen=True)
class _Schedule:
    info: ScheduleInfo
    decay: Callable[[Tensor, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    """(t, total, W, parameters) -> factor without the warm-up's."""


_SCHEDULES = {
    schedule.info.name: schedule
    for schedule in (
        _Schedule(
            ScheduleInfo(
                "constant", "The peak throughout, after an optional warm-up", "min(1, (t+1)/W)", (_warmup(0.0),)
            ),
            _constant,
        ),
        _Schedule(
            ScheduleInfo(
                "linear",
                "Warm-up, then a straight line to the floor",
                "min(1, (t+1)/W) · (floor + (1-floor) · (1-q)),  q = (t-W)/(total-W)",
                (_warmup(0.05), _FLOOR),
            ),
            _linear,
        ),
        _Schedule(
            ScheduleInfo(
                "cosine",
                "Warm-up, then half a cosine to the floor",
                "min(1, (t+1)/W) · (floor + (1-floor) · (1+cos(πq))/2),  q = (t-W)/(total-W)",
                (_warmup(0.05), _FLOOR),
            ),
            _cosine,
        ),
        _Schedule(
            ScheduleInfo(
                "wsd",
                "Warm-up, a stable stretch at the peak, then a linear cool-down to the floor",
                "min(1, (t+1)/W) · (floor + (1-floor) · (1-q)),  q = max(0, (t-total+C)/C),  C = cooldown · total",
                (_warmup(0.05), _FLOOR, _COOLDOWN),
            ),
            _wsd,
        ),
    )
}
