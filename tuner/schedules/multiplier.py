"""The factor of any schedule at any point in training."""

from collections.abc import Mapping
from typing import overload

import torch
from torch import Tensor

from tuner.errors import Fault, InvalidInput
from tuner.schedules.moment import Moment
from tuner.schedules.parameters import TOTAL, T
from tuner.schedules.table import SCHEDULES
from tuner.study.hyperparameter import ScheduleInfo

Value = Tensor | float


@overload
def multiplier(name: str, t: float, total: float, **parameters: float | str) -> float: ...
@overload
def multiplier(name: str, t: Value, total: Value, **parameters: Value | str) -> Value: ...
def multiplier(name: str, t: Value, total: Value, **parameters: Value | str) -> Value:
    """Return the factor in [0, 1] by which the learning rate is multiplied at update `t`.

    Args:
        name: the schedule's, see `catalogue()`.
        t: updates already done, >= 0; a number or one per trial, e.g. [64]. Beyond `total` the final factor applies.
        total: total updates, > 0; a number or one per trial.
        parameters: the schedule's, a number or one per trial (choices: one for all); those left out take their
            defaults.

    Returns:
        A float if every argument is a number, or else a float64 tensor of the broadcast shape.

    Raises:
        InvalidInput: an unknown schedule or parameter, or an illegal number. Tensors are not checked, because
            that would have to wait for the device.
    """
    if name not in SCHEDULES:
        raise InvalidInput([Fault("schedule", f"{name!r} is not known; known are {', '.join(SCHEDULES)}")])
    schedule = SCHEDULES[name]
    _check(schedule.info, t, total, parameters)
    values: dict[str, Value | str] = {**{p.name: p.default for p in schedule.info.parameters}, **parameters}
    like = next((value for value in (t, total, *values.values()) if isinstance(value, Tensor)), None)
    device = None if like is None else like.device

    def tensor(value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=device)

    at = Moment(
        t=tensor(t),
        total=tensor(total),
        numbers={key: tensor(value) for key, value in values.items() if not isinstance(value, str)},
        choices={key: value for key, value in values.items() if isinstance(value, str)},
    )
    factor = ((at.t + 1) / at.warm.clamp(min=1)).clamp(max=1) * schedule.decay(at)
    return factor if like is not None else float(factor)


def _check(info: ScheduleInfo, t: Value, total: Value, parameters: Mapping[str, Value | str]) -> None:
    declared = {p.name: p for p in (T, TOTAL, *info.parameters)}
    faults = []
    for key, value in {"t": t, "total": total, **parameters}.items():
        if key not in declared:
            known = ", ".join(p.name for p in info.parameters)
            faults.append(Fault(key, f"schedule {info.name} has no such parameter; it has {known}"))
        elif isinstance(value, Tensor) and declared[key].choices:
            faults.append(Fault(key, f"is a tensor; allowed is {declared[key].allowed()}, for all trials"))
        elif not isinstance(value, Tensor) and (message := declared[key].fault(value)):
            faults.append(Fault(key, message))
    if faults:
        raise InvalidInput(faults)
