"""LARS: momentum with steps scaled per tensor to the size of the tensor.

Reference: You, Gitman and Ginsburg 2017, "Large batch training of convolutional networks",
https://arxiv.org/abs/1708.03888, algorithm 1; conventions of optax.lars.

    u ← g + weight_decay · p
    b ← momentum · b + trust_coefficient · |p| / |u| · u
    p ← p - lr · b

The ratio (trust_coefficient included) is 1 where |p| or |u| is 0, and for vectors unless `excluded` is none; excluded
vectors have no weight decay either.

State per parameter: momentum_buffer b, of the parameter's shape, zeros at the start.
Departures: the ratio uses the gradient including its decay, where the paper divides by |g| + weight_decay · |p| (equal
without decay). lr is applied outside the momentum, as in torch's SGD and unlike the paper: equal at constant lr, but a
change of lr takes effect at once.
Used with: lr 0.1 to 10, growing with the batch size, with a warm-up; excluded vectors step with lr itself.
"""

from collections.abc import Mapping

from torch import Tensor

from tuner.optimizers.entries import learning_rate, non_negative, weight_decay
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial
from tuner.optimizers.rules.shared.heavy_ball import MOMENTUM, accumulate, descend, penalised
from tuner.optimizers.rules.shared.trust import EXCLUDED, is_excluded, trust_ratio

_PAPER = "You et al. 2017, arXiv:1708.03888"


class LARS(Rule):
    """Momentum with layer-wise adaptive rates."""

    name = "lars"
    summary = "Momentum with steps scaled to each tensor's own size, for large batches"
    formula = "b ← momentum · b + trust_coefficient · |p|/|u| · u, u = g + weight_decay · p;  p ← p - lr · b"
    reference = "You et al. 2017, https://arxiv.org/abs/1708.03888"
    elementwise = False
    hyperparameters = (
        learning_rate(
            1.0,
            0.1,
            10.0,
            f"{_PAPER}: 2-32 at batches of 4k-32k; bounds ours",
            description="learning rate: multiplies the trust ratio; 0 means no update",
        ),
        MOMENTUM,
        weight_decay(
            0.0,
            1e-5,
            1e-3,
            f"{_PAPER}: 5e-4 and 1e-4; bounds are ours",
            description="coupled L2 penalty: added to the gradient before the ratio is taken",
            swept=False,
        ),
        non_negative(
            "trust_coefficient",
            1e-3,
            "fraction of a tensor's size that a step with lr 1 changes",
            1e-4,
            1e-2,
            f"{_PAPER}: 1e-3 and 2e-3; bounds are ours",
        ),
        EXCLUDED,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """One accumulated step, for every role."""
        return ("momentum_buffer",)

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        state.advance()
        for name, param in params.items():
            buffer, direction = state.buffers["momentum_buffer"][name], grads[name]
            if not is_excluded(self.roles.get(name, "vector"), self.structure["excluded"]):
                direction = penalised(direction, param, hp["weight_decay"])
                direction.mul_(per_trial(trust_ratio(param, direction, hp["trust_coefficient"]), param))
            accumulate(buffer, direction, hp["momentum"])
            descend(param, buffer, hp["lr"])
