"""Independent optimizers for rules that sum over a trial's tensors: torch, optax, schedulefree, prodigyopt, Scion."""

import contextlib
import functools
import io
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
from oracles_torch import polar_by_newton_schulz
from torch import Tensor

Params = dict[str, Tensor]

NS_COEFFICIENTS, NS_STEPS, NS_FLOOR = (3.4445, -4.7750, 2.0315), 5, 1e-7


def _adafactor(params: Params, hp: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    options = {"beta2_decay": hp["beta2_decay"], "eps": (hp["eps1"], hp["eps2"]), "d": hp["clip_threshold"]}
    return [torch.optim.Adafactor(params.values(), lr=hp["lr"], weight_decay=hp["weight_decay"], **options)]


def _schedule_free(kind: str, params: Params, hp: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    import schedulefree

    options: dict[str, Any] = {name: hp[name] for name in ("lr", "weight_decay", "r", "weight_lr_power")}
    options |= {"warmup_steps": int(hp["warmup_steps"]), "foreach": False}
    if kind == "sgd":
        optimizer = schedulefree.SGDScheduleFree(params.values(), momentum=hp["momentum"], **options)
    else:
        betas = hp["beta1"], hp["beta2"]
        optimizer = schedulefree.AdamWScheduleFree(params.values(), betas=betas, eps=hp["eps"], **options)
    optimizer.train()
    return [optimizer]


def prodigy(params: Params, hp: Mapping[str, Any], **choices: bool) -> list[torch.optim.Optimizer]:
    import prodigyopt

    options = {"d_coef": hp["d_coef"], "d0": hp["d0"], "growth_rate": hp["growth_rate"], "beta3": hp["beta3"]}
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = prodigyopt.Prodigy(
            params.values(),
            lr=hp["lr"],
            betas=(hp["beta1"], hp["beta2"]),
            eps=hp["eps"],
            weight_decay=hp["weight_decay"],
            **options,
            **choices,
        )
    return [optimizer]


class InOwnType:
    """Scion with Newton-Schulz in the parameters' type: the library's rounds to bfloat16."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        def polar(grad: Tensor, steps: int = NS_STEPS, *_: Any, **__: Any) -> Tensor:
            return polar_by_newton_schulz(grad, NS_COEFFICIENTS, steps, NS_FLOOR)

        with mock.patch("pytorch_optimizer.optimizer.scion.zero_power_via_newton_schulz_5", polar):
            self.optimizer.step()


def scion(params: Params, hp: Mapping[str, float], constrained: bool = False) -> list[InOwnType]:
    """Momentum is 1 minus ours there."""
    from pytorch_optimizer import SCION
    from pytorch_optimizer.optimizer.scion import LMONorm

    norms = {
        "embedding": (LMONorm.COL, {"transpose": True}),
        "conv": (LMONorm.SPECTRALCONV, {}),
        "tall": (LMONorm.SPECTRAL, {}),
        "wide": (LMONorm.SPECTRAL, {}),
        "head": (LMONorm.SIGN, {}),
        "bias": (LMONorm.BIAS, {}),
    }
    groups = [
        {
            "params": [params[name]],
            "norm_type": norm,
            "norm_kwargs": options,
            "scale": hp["head_radius" if name == "head" else "radius"],
        }
        for name, (norm, options) in norms.items()
    ]
    optimizer = SCION(groups, lr=hp["lr"], momentum=1 - hp["momentum"], constraint=constrained, foreach=False)
    return [InOwnType(optimizer)]


def _optax_run(name: str) -> Callable[..., Params]:
    """Return a whole run of one trial, compiled once, in which vectors have neither ratio nor decay."""

    def run(params: Params, hp: Mapping[str, Any], problem: Any, steps: int) -> Params:
        import jax

        with jax.enable_x64(True):
            arrays = tuple(
                {key: jax.numpy.asarray(value.numpy()) for key, value in tensors.items()}
                for tensors in (params, problem.curvature, problem.target, problem.noise)
            )
            numbers = {key: jax.numpy.asarray(float(value)) for key, value in hp.items()}
            found = _compiled(name, steps)(numbers, *arrays)
            return {key: torch.tensor(value.__array__()) for key, value in found.items()}

    return run


@functools.cache
def _compiled(name: str, steps: int) -> Callable[..., Any]:
    import jax
    import optax

    def train(hp: Any, params: Any, curvature: Any, target: Any, noise: Any) -> Any:
        mask = {key: key != "bias" for key in params}
        optimizer = _lamb(optax, hp, mask) if name == "lamb" else _lars(optax, hp, mask)

        def step(carry: Any, t: Any) -> tuple[Any, None]:
            params, state = carry
            grads = {key: curvature[key] * (p - target[key]) + noise[key][t % 8] for key, p in params.items()}
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.numpy.arange(steps))
        return params

    compiled: Callable[..., Any] = jax.jit(train)
    return compiled


def _lamb(optax: Any, hp: Any, mask: Any) -> Any:
    """`optax.lamb`, whose mask holds for the decay alone, with the same mask for the ratio."""
    return optax.chain(
        optax.scale_by_adam(b1=hp["beta1"], b2=hp["beta2"], eps=hp["eps"]),
        optax.add_decayed_weights(hp["weight_decay"], mask),
        optax.masked(optax.scale_by_trust_ratio(), mask),
        optax.scale_by_learning_rate(hp["lr"]),
    )


def _lars(optax: Any, hp: Any, mask: Any) -> Any:
    """The momentum holds lr there, which ours takes outside: the same at constant lr."""
    return optax.lars(
        hp["lr"],
        hp["weight_decay"],
        weight_decay_mask=mask,
        trust_coefficient=hp["trust_coefficient"],
        trust_ratio_mask=mask,
        momentum=hp["momentum"],
    )


ORACLES = {
    "adafactor": _adafactor,
    "schedule_free_sgd": functools.partial(_schedule_free, "sgd"),
    "schedule_free_adamw": functools.partial(_schedule_free, "adamw"),
    "prodigy": prodigy,
    "scion": scion,
}
RUNS = {"lamb": _optax_run("lamb"), "lars": _optax_run("lars")}
TOLERANCE = {"prodigy": 1e-10}
"""Prodigy divides p0 - p by sums of its own size: at d0 = 1e-8 a last bit of p is 1e-8 of the first estimates."""
STEPS = {"prodigy": 200}  # early on, its estimate of the distance amplifies rounding errors
ZERO_AT_LR_0 = {
    "schedule_free_sgd": {"trial.lr_max", "trial.weight_sum"},
    "schedule_free_adamw": {"trial.lr_max", "trial.weight_sum"},
    "prodigy": {"pools.s", "trial.d_numerator"},
}
"""Rule -> state that counts learning rates, and so stays 0 without one."""
