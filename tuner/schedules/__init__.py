"""Learning-rate schedules as closed-form multipliers of (t, total, parameters), for one trial or for many.

Conventions. `t` counts the updates already done: the first update has t = 0, the last t = total - 1. Warm-up is part of
`total`: with W = warmup · total, update t has the factor (t + 1) / W until it reaches 1, so it is never 0. The decay
covers the rest, with q from 0 at t = W to 1 at t = total: the last update still has an effect, as in
torch.optim.lr_scheduler. `floor` is a fraction of the peak. Weight decay that is multiplied by lr follows the schedule.
Only one_cycle has its own rise and ends on the last update itself, as torch's does.

Nothing depends on the past, so a trial can resume at any t; nothing depends on the neighbours, so a trial's factor is
bit for bit the same in any batch. Factors are computed in float64.
"""

from tuner.schedules.multiplier import multiplier
from tuner.schedules.table import catalogue

__all__ = ["catalogue", "multiplier"]
