"""The schedules, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tuner.schedules import parameters as p
from tuner.schedules import shapes
from tuner.schedules.moment import Moment
from tuner.study.hyperparameter import Hyperparameter, ScheduleInfo

_RISE = "min(1, (t+1)/W) · "
_Q = ",  q = (t-W)/(total-W)"


@dataclass(frozen=True)
class Schedule:
    """The catalogue entry, and the shape: the factor excluding the warm-up."""

    info: ScheduleInfo
    decay: Callable[[Moment], Tensor]


def _schedule(
    name: str, summary: str, formula: str, decay: Callable[[Moment], Tensor], *parameters: Hyperparameter
) -> Schedule:
    return Schedule(ScheduleInfo(name, summary, formula, parameters), decay)


_WARM = p.warmup(0.05)

SCHEDULES = {
    schedule.info.name: schedule
    for schedule in (
        _schedule(
            "constant",
            "Constant at the peak, after an optional warm-up",
            "min(1, (t+1)/W)",
            shapes.constant,
            p.warmup(0.0),
        ),
        _schedule(
            "linear",
            "Warm-up, then a straight line to the floor",
            f"{_RISE}(floor + (1-floor) · (1-q)){_Q}",
            shapes.linear,
            *(_WARM, p.FLOOR),
        ),
        _schedule(
            "cosine",
            "Warm-up, then half a cosine to the floor, or several with warm restarts",
            f"{_RISE}(floor + (1-floor) · (1+cos(π·r))/2),  r = q's share of its cycle{_Q}",
            shapes.cosine,
            *(_WARM, p.FLOOR, p.CYCLES, p.CYCLE_GROWTH),
        ),
        _schedule(
            "wsd",
            "Warm-up, a stable phase at the peak, then a cool-down to the floor",
            f"{_RISE}(floor + (1-floor) · s(q)),  q = max(0, (t-total+C)/C),  C = cooldown · total;  "
            "s = 1-q, 1-√q or (1+cos(πq))/2",
            shapes.wsd,
            *(_WARM, p.FLOOR, p.COOLDOWN, p.COOLDOWN_SHAPE),
        ),
        _schedule(
            "inverse_sqrt",
            "Warm-up, then decay with the inverse square root of the updates done; independent of the total",
            f"{_RISE}1/√(1 + (t-W)/S),  S = timescale · total",
            shapes.inverse_sqrt,
            *(_WARM, p.TIMESCALE),
        ),
        _schedule(
            "polynomial",
            "Warm-up, then a power of the remaining fraction, down to the floor",
            f"{_RISE}(floor + (1-floor) · (1-q)^power){_Q}",
            shapes.polynomial,
            *(_WARM, p.FLOOR, p.POWER),
        ),
        _schedule(
            "exponential",
            "Warm-up, then decay by the same factor with every update",
            f"{_RISE}final_factor^q{_Q}",
            shapes.exponential,
            *(_WARM, p.FINAL_FACTOR),
        ),
        _schedule(
            "step",
            "Warm-up, then drops by gamma at equal intervals",
            f"{_RISE}gamma^⌊q / step_share⌋{_Q}",
            shapes.step,
            *(_WARM, p.GAMMA, p.STEP_SHARE),
        ),
        _schedule(
            "multistep",
            "Warm-up, then drops by gamma at up to three milestones",
            f"{_RISE}gamma^(number of milestones <= q){_Q}",
            shapes.multistep,
            *(_WARM, p.GAMMA, p.MILESTONE1, p.MILESTONE2, p.MILESTONE3),
        ),
        _schedule(
            "one_cycle",
            "Half a cosine up to the peak, then half a cosine down to almost nothing; includes its own warm-up",
            "start_factor → 1 over rise · total - 1 updates, 1 → end_factor over the rest, each by (1-cos(πq))/2",
            shapes.one_cycle,
            *(p.RISE, p.START_FACTOR, p.END_FACTOR),
        ),
    )
}


def catalogue() -> dict[str, ScheduleInfo]:
    """Return the catalogue entry of every schedule, by name."""
    return {name: schedule.info for name, schedule in SCHEDULES.items()}
