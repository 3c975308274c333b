"""Schedule-free SGD: an averaged sequence replaces momentum and the schedule.

Reference: Defazio et al. 2024, "The road less scheduled", https://arxiv.org/abs/2405.15682, equations 3-5; conventions
of schedulefree.SGDScheduleFree. The three sequences and the weights c: see schedule_free.py.

    u ← g(y) + weight_decay · y
    z ← z - lr_t · u;  x ← (1 - c) · x + c · z;  y ← (1 - momentum) · z + momentum · x

State per parameter: z, of the parameter's shape, the parameter itself at the start. Per trial: lr_max and weight_sum.
The trained parameters are y; the result is x (`evaluation_params`; `eval()` and `train()` of `build`'s optimizers).
Departures: none. The schedule should be constant; running statistics of batch normalisation belong to y.
Used with: lr 10 to 50 times that of SGD with momentum.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.entries import learning_rate, weight_decay
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors
from tuner.optimizers.rules.shared.heavy_ball import penalised
from tuner.optimizers.rules.shared.schedule_free import (
    AVERAGING,
    PAPER,
    TRIAL_STATE,
    averaged,
    averaging,
    interpolation,
    lead,
    start_leading,
)


class ScheduleFreeSGD(Rule):
    """SGD whose result is a weighted average of its steps."""

    name = "schedule_free_sgd"
    summary = "SGD that needs no schedule: gradients between the last step and the average, its result"
    formula = "z ← z - lr · (g(y) + weight_decay · y);  x ← (1 - c) · x + c · z;  y ← (1 - momentum) · z + momentum · x"
    reference = "Defazio et al. 2024, https://arxiv.org/abs/2405.15682"
    averages = True
    starts_at_parameter = ("z",)
    hyperparameters = (
        learning_rate(
            1.0,
            0.05,
            20.0,
            f"{PAPER}: 10-50 times SGD's; bounds are ours",
            description="learning rate of the leading sequence; 0 means no update",
        ),
        interpolation("momentum"),
        weight_decay(
            0.0,
            1e-6,
            1e-3,
            f"{PAPER}: 1e-4 to 5e-4; bounds ours",
            description="L2 penalty, taken at the trained parameters: added to the gradient",
            swept=False,
        ),
        *AVERAGING,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """The leading sequence, for every role."""
        return ("z",)

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """See `schedule_free.TRIAL_STATE`."""
        return dict(TRIAL_STATE)

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        leading = state.buffers["z"]
        start_leading(params, leading, state)
        state.advance()
        now = averaging(state, hp)
        for name, param in params.items():
            direction = penalised(grads[name], param, hp["weight_decay"])
            lead(param, leading[name], direction, hp["momentum"], now)

    def evaluation_params(self, params: Tensors, state: State, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the average x."""
        return averaged(params, state.buffers["z"], state.step, hp["momentum"])
