"""Prodigy: Adam that estimates its own learning rate from the distance travelled.

Reference: Mishchenko and Defazio 2024, "Prodigy: an expeditiously adaptive parameter-free learner",
https://arxiv.org/abs/2306.06101, algorithm 4; conventions of the prodigyopt package.

    s ← beta3 · s + (d / d0) · d · lr · g                              (safeguard_warmup: without lr)
    n ← beta3 · n + (d / d0) · d · lr · ⟨g, p0 - p⟩
    m ← beta1 · m + d · (1 - beta1) · g;   v ← beta2 · v + d² · (1 - beta2) · g²
    e = d_coef · n / |s|₁;   if d = d0: d ← max(d, e);   dmax ← max(dmax, e);   d⁺ = min(dmax, d · growth_rate)
    p ← p - d · lr · weight_decay · p - d · lr · m / (√v + d⁺ · eps);   d ← d⁺

⟨ , ⟩ and | |₁ are over all parameters of the trial. With bias_correction, lr above is lr · √(1 - beta2^t) / (1 -
beta1^t). As long as |s|₁ is 0, parameters do not change.

State per parameter, of its shape: exp_avg m, exp_avg_sq v and s, zeros at the start; p0, the parameter at the start.
Per trial: d and d_max, both d0 at the start, and d_numerator n. d never falls.
Departures: with beta1 = 0 the step uses the d that weighted its gradient, not d⁺. p0 and s contain every element (no
slice_p). In a torch optimizer with several parameter groups each group is treated as its own trial, with its own d,
where the package shares one; pass all parameters as one group to have one d.
Used with: lr 1; tune d_coef instead.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tuner.optimizers.entries import choice, decay_rate, learning_rate, non_negative, weight_decay, without_zero
from tuner.optimizers.maths.power import power
from tuner.optimizers.rule import Evaluate, Role, Rule, Shapes, State, Tensors, per_trial
from tuner.optimizers.sums import total
from tuner.study.hyperparameter import Hyperparameter, Search

_PAPER = "Mishchenko and Defazio 2024, arXiv:2306.06101"

_HYPERPARAMETERS = (
    learning_rate(
        1.0,
        0.3,
        3.0,
        f"{_PAPER}: 1; the bounds are ours",
        description="factor of the estimated learning rate; 0 means no update",
    ),
    without_zero(
        non_negative(
            "d_coef",
            1.0,
            "factor of the estimate itself: the package's preferred tuning knob",
            0.1,
            10.0,
            "prodigyopt package: 0.5 and 2 work too; bounds are ours",
            swept=True,
        )
    ),
    decay_rate("beta1", 0.9, "the first moment", 0.8, 0.95, f"{_PAPER}: 0.9; bounds are ours"),
    decay_rate("beta2", 0.999, "the second moment", 0.9, 0.999, f"{_PAPER}: 0.999, 0.99 on VAEs"),
    decay_rate(
        "beta3", 0.0, "the sums behind the estimate; 0 means √beta2", 0.9, 0.9999, f"{_PAPER}: √beta2; bounds ours"
    ),
    without_zero(
        non_negative(
            "eps",
            1e-8,
            "added to the root of the second moment, times d",
            1e-10,
            1e-6,
            f"{_PAPER}: 1e-8; bounds are ours",
        )
    ),
    weight_decay(
        0.0,
        1e-3,
        0.1,
        f"{_PAPER}: 0, 0.01 and 0.1; 1e-3 is ours",
        description="decay; decoupled it shrinks the parameter by the factor 1 - d · lr · weight_decay",
        swept=False,
    ),
    choice("weight_decay_mode", "decoupled", "decoupled, or l2: weight_decay · p is added to the gradient", "l2"),
    without_zero(
        non_negative(
            "d0",
            1e-6,
            "initial estimate: below any harmful learning rate",
            1e-8,
            1e-4,
            f"{_PAPER}: 1e-6; bounds are ours",
        )
    ),
    Hyperparameter(
        name="growth_rate",
        default=1e30,
        description="largest factor by which the estimate grows per step; the default is no bound",
        low=1.0,
        search=Search(min=1.01, max=2.0, swept=False, source="prodigyopt package: 1.02 acts as a warm-up; bounds ours"),
    ),
    choice(
        "safeguard_warmup",
        "off",
        "on: lr is left out of |s|₁, so that a warm-up of lr does not inflate the estimate",
        "on",
    ),
    choice("bias_correction", "off", "on: Adam's bias correction as a factor of lr", "on"),
)


class Prodigy(Rule):
    """Adam with an estimated step size, one per trial."""

    name = "prodigy"
    summary = "Adam that estimates its own learning rate from the distance it has come"
    formula = "p ← p - d · lr · (m / (√v + d · eps) + weight_decay · p), d ← max(d, d_coef · n / |s|₁)"
    reference = "Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101"
    elementwise = False
    one_rate = True
    starts_at_parameter = ("p0",)
    memory = "4"
    hyperparameters = _HYPERPARAMETERS

    @classmethod
    def buffers(cls, role: Role) -> tuple[str, ...]:
        """Adam's two moments, for every role; the other two copies are in pools, only for trials of this rule."""
        return ("exp_avg", "exp_avg_sq")

    def pools(self, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
        """The initial value of each parameter, and the weighted sum of its gradients."""
        every = {name: tuple(shape) for name, shape in shapes.items()}
        return {"p0": every, "s": every}

    def trial_state(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """The estimate, its bound, and the numerator of both."""
        return {"d": (), "d_max": (), "d_numerator": ()}

    def update(
        self,
        grads: Tensors,
        params: Tensors,
        state: State,
        hp: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> None:
        """Apply one step in place; `grads` and `params` hold [T, ...] tensors, e.g. (64, 256, 64)."""
        if 0 in state.counts:
            _start(params, state, hp["d0"])
        state.advance()
        decoupled = self.structure["weight_decay_mode"] == "decoupled"
        if not decoupled:
            grads = {name: grad + params[name] * per_trial(hp["weight_decay"], grad) for name, grad in grads.items()}
        d = state.trial["d"].double()
        rate = d * hp["lr"]
        if self.structure["bias_correction"] == "on":
            bias = 1 - power(torch.stack([hp["beta1"], hp["beta2"]]), state.step)
            rate = rate * bias[1].sqrt() / bias[0]
        distance, length = self._gather(grads, params, state, hp, d, rate)
        grown = _estimate(state.trial, distance, length, hp)
        rate = torch.where(length == 0, 0.0, rate)
        shrink = 1 - rate * hp["weight_decay"] if decoupled else None
        for name, param in params.items():
            root = state.buffers["exp_avg_sq"][name].sqrt().add_(per_trial(grown * hp["eps"], param))
            step = torch.div(state.buffers["exp_avg"][name], root, out=root).mul_(per_trial(rate, param))
            if shrink is not None:
                param.mul_(per_trial(shrink, param))
            param.sub_(step)

    def _gather(
        self, grads: Tensors, params: Tensors, state: State, hp: Mapping[str, Tensor], d: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients to both moments and s; return the trials' new term of n and |s|₁, float64 [T]."""
        ratio, beta3 = d / hp["d0"], torch.where(hp["beta3"] > 0, hp["beta3"], hp["beta2"].sqrt())
        weight = ratio * (d if self.structure["safeguard_warmup"] == "on" else rate)
        fresh1, fresh2 = d * (1 - hp["beta1"]), d * d * (1 - hp["beta2"])
        distance, length = torch.zeros_like(d), torch.zeros_like(d)
        for name, grad in grads.items():
            first, second = state.buffers["exp_avg"][name], state.buffers["exp_avg_sq"][name]
            first.mul_(per_trial(hp["beta1"], grad)).add_(grad * per_trial(fresh1, grad))
            second.mul_(per_trial(hp["beta2"], grad)).add_((grad * grad).mul_(per_trial(fresh2, grad)))
            s = state.pools["s"][name]
            s.mul_(per_trial(beta3, grad)).add_(grad * per_trial(weight, grad))
            distance.add_(total((state.pools["p0"][name] - params[name]).mul_(grad).contiguous()))
            length.add_(total(s.abs().contiguous()))
        kept = state.trial["d_numerator"].double() * beta3
        return kept + ratio * rate * distance, length


def _start(params: Tensors, state: State, d0: Tensor) -> None:
    """Store the initial parameters of trials without a step."""
    fresh = state.step == 0
    for name, param in params.items():
        p0 = state.pools["p0"][name]
        p0.copy_(torch.where(per_trial(fresh, param) != 0, param, p0))
    for name in ("d", "d_max"):
        kept = state.trial[name]
        kept.copy_(torch.where(fresh, d0.to(kept.dtype), kept))


def _estimate(trial: Tensors, numerator: Tensor, length: Tensor, hp: Mapping[str, Tensor]) -> Tensor:
    """Update d, d_max and d_numerator, in place, where `length` is not 0; return d, float64 [T]."""
    kept = trial["d"]
    d, moving = kept.double(), length != 0
    found = torch.where(moving, hp["d_coef"] * numerator / length, 0.0)
    d_max = torch.maximum(trial["d_max"].double(), found)
    start = torch.where(kept == hp["d0"].to(kept.dtype), torch.maximum(d, found), d)
    grown = torch.where(moving, torch.minimum(d_max, start * hp["growth_rate"]), d)
    kept.copy_(grown)
    trial["d_max"].copy_(d_max)
    trial["d_numerator"].copy_(torch.where(moving, numerator, trial["d_numerator"].double()))
    return grown
