"""LAMB: Adam's direction, scaled per tensor to the size of the tensor.

Reference: You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes",
https://arxiv.org/abs/1904.00962, algorithm 2; conventions of optax.lamb.

    m ← beta1 · m + (1 - beta1) · g
    v ← beta2 · v + (1 - beta2) · g²
    u ← m / (1 - beta1^t) / (√(v / (1 - beta2^t)) + eps) + weight_decay · p
    p ← p - lr · |p| / |u| · u

The ratio is 1 where |p| or |u| is 0, and for vectors unless `excluded` is none; excluded vectors have no weight decay
either. Norms are taken per trial and tensor.

State per parameter: exp_avg m and exp_avg_sq v, of the parameter's shape, zeros at the start.
Departures: φ, the paper's bound on |p|, is the identity; no built-in clipping (several libraries first scale gradients
to a global norm of 1: use clip_norm for that).
Used with: lr 1e-3 to 1e-2, growing with the square root of the batch size, with a warm-up.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import decay_rate, learning_rate, non_negative, weight_decay
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, State, Tensors, per_trial
from tuner.optimizers.rules.shared.trust import EXCLUDED, is_excluded, trust_ratio

_ALGOPERF = "AlgoPerf, arXiv:2306.07179, LAMB search space"


class LAMB(Rule):
    """Adam with layer-wise trust ratios."""

    name = "lamb"
    summary = "Adam's direction with steps scaled to each tensor's own size, for large batches"
    formula = "p ← p - lr · |p|/|u| · u, u = m̂ / (√v̂ + eps) + weight_decay · p"
    reference = "You et al. 2020, https://arxiv.org/abs/1904.00962"
    elementwise = False
    hyperparameters = (
        learning_rate(
            2e-3,
            1e-4,
            3e-2,
            f"{_ALGOPERF}: 1e-4-1e-2, log; raised to 3e-2 by us, as a fraction of a tensor's size",
            description="learning rate: a step changes a tensor by this fraction of its size; 0 means no update",
        ),
        decay_rate("beta1", 0.9, "the first moment", 0.7, 0.95, f"{_ALGOPERF}: 1 - beta1 in 0.05-0.3, log", swept=True),
        decay_rate("beta2", 0.999, "the second moment", 0.9, 0.999, "0.999 is the paper's; bounds are ours"),
        non_negative(
            "eps", 1e-6, "added to the root of the second moment", 1e-8, 1e-4, "1e-6 is the paper's; bounds are ours"
        ),
        weight_decay(
            0.01,
            1e-3,
            1.0,
            f"{_ALGOPERF}: 1e-3-1, log",
            description="added to the direction before the ratio is taken: changes a step's direction, not its length",
        ),
        EXCLUDED,
    )

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Two moments, for every role."""
        return ("exp_avg", "exp_avg_sq")

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
        bias = 1 - power(torch.stack([hp["beta1"], hp["beta2"]]), state.step)
        scalars = {**hp, "correction1": bias[0], "correction2": bias[1].sqrt()}
        for name, param in params.items():
            first, second = state.buffers["exp_avg"][name], state.buffers["exp_avg_sq"][name]
            direction = _adam_direction(grads[name], first, second, scalars)
            rate = hp["lr"]
            if not is_excluded(self.roles.get(name, "vector"), self.structure["excluded"]):
                direction.add_(param * per_trial(hp["weight_decay"], param))
                rate = rate * trust_ratio(param, direction)
            param.sub_(direction.mul_(per_trial(rate, param)))


def _adam_direction(grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, scalars: Mapping[str, Tensor]) -> Tensor:
    """Update both moments [T, ...] in place and return m̂ / (√v̂ + eps) as a new tensor."""
    s = {name: per_trial(value, grad) for name, value in scalars.items()}
    rest1, rest2 = (per_trial(1 - scalars[name], grad) for name in ("beta1", "beta2"))
    exp_avg.mul_(s["beta1"]).add_(grad * rest1)
    exp_avg_sq.mul_(s["beta2"]).add_((grad * grad).mul_(rest2))
    denominator = exp_avg_sq.sqrt().div_(s["correction2"]).add_(s["eps"]).mul_(s["correction1"])
    return torch.div(exp_avg, denominator, out=denominator)
