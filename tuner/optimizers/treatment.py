"""Treatments, applied around any rule: gradient clipping, other kinds of weight decay, moment warm-up.

In this order, each per trial: gradients are clipped by value, then by their global norm over all parameters; weight
decay of another kind than the rule's own, or one that leaves out some roles, takes the place of the rule's; lr is 0
during moment warm-up. A trial without treatment runs the rule alone, so its bits are the same as without this file.
Clipping never hides a gradient that is not finite: it stays so, and the trial is seen to diverge.

References: Pascanu et al. 2013, https://arxiv.org/abs/1211.5063 (norm clipping; the 1e-6 in the divisor as in
torch.nn.utils.clip_grad_norm_); Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101 (decay independent of lr).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tuner.optimizers.sums import total_square
from tuner.optimizers.tensors import Role, Tensors, per_trial
from tuner.study.hyperparameter import Hyperparameter, Scalar, Search

DecayMode = Literal["l2", "decoupled", "independent"]

CLIPPING = (
    Hyperparameter(
        name="clip_value",
        treatment=True,
        default=0.0,
        description="every element of the gradient is clamped to this size; 0: off",
        low=0.0,
        search=Search(min=1e-3, max=1.0, scaling="log", swept=False, source="ours"),
    ),
    Hyperparameter(
        name="clip_norm",
        treatment=True,
        default=0.0,
        description="gradients with a larger norm over all parameters of the trial are scaled down to it; 0: off",
        low=0.0,
        search=Search(
            min=0.1, max=10.0, scaling="log", swept=False, source="Wen et al. 2025, arXiv:2509.02046: best 1-2"
        ),
    ),
)
MOMENT_WARMUP = Hyperparameter(
    name="moment_warmup",
    default=0.0,
    description="number of initial steps with lr 0, in which only the moments build up",
    low=0.0,
    integer=True,
    treatment=True,
    search=Search(min=0.0, max=100.0, swept=False, source="ours"),
)
DECAY_ROLES: dict[str, tuple[Role, ...]] = {
    "all": ("matrix", "convolution", "embedding", "head", "vector"),
    "no_vectors": ("matrix", "convolution", "embedding", "head"),
    "hidden": ("matrix", "convolution"),
}


def decay_hyperparameters(own: str) -> tuple[Hyperparameter, ...]:
    """Return the hyperparameters of weight decay, for a rule whose own kind is `own`."""
    return (
        Hyperparameter(
            name="weight_decay_mode",
            treatment=True,
            default=own,
            description=(
                "l2: weight_decay · p joins the gradient; decoupled: p ← p · (1 - lr · weight_decay); "
                "independent: p ← p · (1 - weight_decay), independent of lr and schedule (so use about lr times less)"
            ),
            choices=("l2", "decoupled", "independent"),
        ),
        Hyperparameter(
            name="weight_decay_roles",
            treatment=True,
            default="all",
            description="what decays: all, no_vectors (no biases and gains), or hidden (matrices, convolutions)",
            choices=tuple(DECAY_ROLES),
        ),
    )


@dataclass(frozen=True)
class Treatment:
    """Which treatments are on; their amounts are per-trial hyperparameters."""

    clip_value: bool = False
    clip_norm: bool = False
    moment_warmup: bool = False
    decay: DecayMode | None = None
    """Weight decay that replaces the rule's own; None: the rule's own."""
    decay_roles: str = "all"

    def prepare(
        self,
        grads: Tensors,
        params: Tensors,
        steps_done: Tensor,
        hp: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        norm: Tensor | None = None,
    ) -> tuple[Tensors, dict[str, Tensor]]:
        """Return the gradients and hyperparameters to pass to the rule; decay `params` [T, ...] in place.

        `steps_done` [T] counts the updates before this one. `grads` are left as they are. `norm` [T] is that of each
        trial's whole gradient, clipped by value, where `grads` are only a part of it.
        """
        own = dict(hp)
        if not grads:
            return grads, own
        if self.clip_value:
            grads = {name: clipped(grad, hp["clip_value"]) for name, grad in grads.items()}
        if self.clip_norm:
            scale = clip_coefficient(global_norm(list(grads.values())) if norm is None else norm, hp["clip_norm"])
            grads = {name: grad * per_trial(scale, grad) for name, grad in grads.items()}
        if self.moment_warmup:
            own["lr"] = hp["lr"] * (steps_done >= hp["moment_warmup"])
        if self.decay is not None:
            own["weight_decay"] = torch.zeros_like(hp["weight_decay"])
            grads = self._decayed(grads, params, own["lr"], hp["weight_decay"], roles)
        return grads, own

    def norm(self, grads: Tensors, hp: Mapping[str, Tensor]) -> Tensor | None:
        """Return the norm [T] of the whole gradient that `prepare` clips by; None where it does not."""
        if not self.clip_norm or not grads:
            return None
        own = [clipped(grad, hp["clip_value"]) if self.clip_value else grad for grad in grads.values()]
        return global_norm(own)

    def _decayed(
        self, grads: Tensors, params: Tensors, lr: Tensor, weight_decay: Tensor, roles: Mapping[str, Role]
    ) -> Tensors:
        result = {}
        for name, grad in grads.items():
            result[name], param = grad, params[name]
            if roles.get(name, "vector") not in DECAY_ROLES[self.decay_roles]:
                continue
            if self.decay == "l2":
                result[name] = grad + param * per_trial(weight_decay, param)
            else:
                rate = weight_decay * lr if self.decay == "decoupled" else weight_decay
                param.mul_(per_trial(1 - rate, param))
        return result


def treatment_of(values: Mapping[str, Scalar], own_decay: str | None) -> Treatment | None:
    """Return the treatment requested by hyperparameter values, for a rule whose own decay is `own_decay`; or None."""
    mode, roles = str(values.get("weight_decay_mode", own_decay)), str(values.get("weight_decay_roles", "all"))
    others = own_decay is not None and (mode != own_decay or roles != "all")
    treatment = Treatment(
        clip_value=float(values.get("clip_value", 0.0)) > 0,
        clip_norm=float(values.get("clip_norm", 0.0)) > 0,
        moment_warmup=float(values.get("moment_warmup", 0.0)) > 0,
        decay=mode if others else None,  # type: ignore[arg-type]
        decay_roles=roles if others else "all",
    )
    return None if treatment == Treatment() else treatment


def global_norm(grads: Sequence[Tensor]) -> Tensor:
    """Return the norm of each trial's gradients [T, ...] together, float64 [T], the same bits beside any neighbours."""
    first, *others = [total_square(grad) for grad in grads]
    for square in others:
        first.add_(square.to(first.device))
    return first.sqrt_()


def clip_coefficient(norm: Tensor, most: Tensor) -> Tensor:
    """Return, float64 [T], what scales gradients of a global `norm` [T] to at most `most` [T], 0 for no bound.

    It is NaN for a norm that is not finite: 0 would take such a gradient for a small one.
    """
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    return torch.where(most > 0, torch.where(norm.isfinite(), scale, torch.nan), 1.0)


def clipped(grad: Tensor, most: Tensor) -> Tensor:
    """Return `grad` [T, ...] with its elements cut to at most `most` [T], 0 for no bound; what is not finite stays."""
    limit = per_trial(torch.where(most > 0, most, torch.inf), grad)
    return torch.where(grad.isfinite(), torch.minimum(torch.maximum(grad, -limit), limit), grad)
