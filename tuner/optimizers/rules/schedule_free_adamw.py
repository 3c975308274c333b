"""Schedule-free AdamW: Adam's scaling, with an averaged sequence instead of the first moment and the schedule.

Reference: Defazio et al. 2024, "The road less scheduled", https://arxiv.org/abs/2405.15682, algorithm 1; conventions of
schedulefree.AdamWScheduleFree. The three sequences and the weights c: see schedule_free.py.

    v ← beta2 · v + (1 - beta2) · g(y)²
    u ← g(y) / (√(v / (1 - beta2^t)) + eps) + weight_decay · y
    z ← z - lr_t · u;  x ← (1 - c) · x + c · z;  y ← (1 - beta1) · z + beta1 · x

State per parameter: z, the parameter itself at the start, and exp_avg_sq v, zeros; both of the parameter's shape. Per
trial: lr_max and weight_sum. The trained parameters are y; the result is x (`evaluation_params`; `eval()` and `train()`
of `build`'s optimizers).
Departures: as in the package, unlike the paper, the second moment's bias correction is separate from lr. The schedule
should be constant; running statistics of batch normalisation belong to y.
Used with: lr 1 to 10 times AdamW's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import decay_rate, learning_rate, non_negative, weight_decay
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors, per_trial
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


class ScheduleFreeAdamW(Rule):
    """AdamW whose result is a weighted average of its steps."""

    name = "schedule_free_adamw"
    summary = "AdamW that needs no schedule: gradients between the last step and the average, its result"
    formula = "z ← z - lr · (g(y)/(√v̂ + eps) + weight_decay · y);  x ← (1-c)·x + c·z;  y ← (1-beta1)·z + beta1·x"
    reference = "Defazio et al. 2024, https://arxiv.org/abs/2405.15682"
    averages = True
    starts_at_parameter = ("z",)
    hyperparameters = (
        learning_rate(
            2.5e-3,
            3e-4,
            5e-2,
            f"{PAPER}: 1-10 times AdamW's, 2.5e-3 recommended; bounds are ours",
            description="learning rate of the leading sequence; 0 means no update",
        ),
        interpolation("beta1"),
        decay_rate("beta2", 0.999, "the second moment", 0.9, 0.999, f"{PAPER}: 0.999; 0.9 ours"),
        non_negative(
            "eps", 1e-8, "added to the root of the second moment", 1e-10, 1e-6, f"{PAPER}: 1e-8; bounds are ours"
        ),
        weight_decay(
            0.0,
            1e-3,
            0.3,
            f"{PAPER}: 0.05 and 0.1 on transformers; bounds ours",
            description="decoupled decay, taken at the trained parameters: added to the scaled gradient",
        ),
        *AVERAGING,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """The leading sequence and a second moment, for every role."""
        return ("z", "exp_avg_sq")

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
        correction2 = (1 - power(hp["beta2"][None], state.step)[0]).sqrt()
        for name, param in params.items():
            grad, second = grads[name], state.buffers["exp_avg_sq"][name]
            second.mul_(per_trial(hp["beta2"], param)).add_((grad * grad).mul_(per_trial(1 - hp["beta2"], param)))
            root = second.sqrt().div_(per_trial(correction2, param)).add_(per_trial(hp["eps"], param))
            direction = torch.div(grad, root, out=root).add_(param * per_trial(hp["weight_decay"], param))
            lead(param, leading[name], direction, hp["beta1"], now)

    def evaluation_params(self, params: Tensors, state: State, hp: Mapping[str, Tensor]) -> Tensors:
        """Return the average x."""
        return averaged(params, state.buffers["z"], state.step, hp["beta1"])
