"""Independent first-order optimizers: torch's, pytorch_optimizer's, and literal loops where neither has the rule.

Conventions: NAdam of torch keeps its product of momenta in the default type, so it runs under float64 here. AlgoPerf's
NAdamW is in no package (optax.nadamw corrects momentum and gradient each by its own number of steps): a loop from its
formulas.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Params = dict[str, Tensor]


class Float64Default:
    """An optimizer that makes and updates its own scalars under a default type of float64."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            self.optimizer.step()
        finally:
            torch.set_default_dtype(before)


class NAdamWLoop:
    """AlgoPerf's NAdamW as its formulas read."""

    def __init__(self, params: Params, hp: Mapping[str, float]) -> None:
        self.p, self.hp, self.t = joined(params)[0], hp, 0
        self.m, self.v = torch.zeros_like(self.p), torch.zeros_like(self.p)

    def step(self) -> None:
        self.t += 1
        lr, b1, b2, eps, wd = (self.hp[name] for name in ("lr", "beta1", "beta2", "eps", "weight_decay"))
        g, p = self.p.grad, self.p
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2
        m_hat = (b1 * self.m + (1 - b1) * g) / (1 - b1**self.t)
        v_hat = self.v / (1 - b2**self.t)
        p.copy_(p - lr * wd * p - lr * m_hat / (v_hat.sqrt() + eps))


def joined(params: Params) -> list[Tensor]:
    """Turn all parameters into views of one, which rules of single elements cannot tell: six times fewer calls."""
    flat = torch.cat([param.flatten() for param in params.values()])
    flat.grad = torch.zeros_like(flat)
    pieces = [param.numel() for param in params.values()]
    for (name, param), own, grad in zip(list(params.items()), flat.split(pieces), flat.grad.split(pieces), strict=True):
        params[name] = own.view(param.shape)
        params[name].grad = grad.view(param.shape)
    return [flat]


def _betas(hp: Mapping[str, float]) -> tuple[float, float]:
    return hp["beta1"], hp["beta2"]


def _adam(params: Params, hp: Mapping[str, Any], amsgrad: bool = False) -> list[Any]:
    options = {"lr": hp["lr"], "betas": _betas(hp), "eps": hp["eps"], "weight_decay": hp["weight_decay"]}
    return [torch.optim.Adam(joined(params), amsgrad=amsgrad, foreach=False, **options)]


def _nadam(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    options = {name: hp[name] for name in ("lr", "eps", "momentum_decay", "weight_decay")}
    return [Float64Default(torch.optim.NAdam(joined(params), betas=_betas(hp), foreach=False, **options))]


def _adagrad(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    return [torch.optim.Adagrad(joined(params), foreach=False, **hp)]


def _rmsprop(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    return [torch.optim.RMSprop(joined(params), foreach=False, **hp)]


def _lion(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    from pytorch_optimizer import Lion

    options = {"lr": hp["lr"], "weight_decay": hp["weight_decay"], "weight_decouple": True}
    return [Lion(joined(params), betas=_betas(hp), foreach=False, **options)]


def _signum(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    from pytorch_optimizer import SignSGD

    return [SignSGD(joined(params), weight_decouple=True, foreach=False, **hp)]


def _ademamix(params: Params, hp: Mapping[str, Any]) -> list[Any]:
    from pytorch_optimizer import AdEMAMix

    options = {name: hp[name] for name in ("lr", "alpha", "eps", "weight_decay")}
    betas = (hp["beta1"], hp["beta2"], hp["beta3"])
    warmup = hp["slow_warmup"] or None
    options |= {"betas": betas, "t_alpha_beta3": warmup, "weight_decouple": True}
    return [AdEMAMix(joined(params), foreach=False, **options)]


ORACLES = {
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "amsgrad": lambda params, hp: _adam(params, hp, amsgrad=True),
    "nadam": _nadam,
    "nadamw": lambda params, hp: [NAdamWLoop(params, hp)],
    "ademamix": _ademamix,
    "lion": _lion,
    "signum": _signum,
}
