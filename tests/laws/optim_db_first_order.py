"""How torch's first-order optimizers and their options are called here, for test_optim_db.py.

Each function takes torch's keyword arguments, without those that choose an implementation, and returns our rule's name
and hyperparameters. torch's default is named where ours differs.
"""

from collections.abc import Callable, Mapping
from typing import Any

Kwargs = Mapping[str, Any]
Called = tuple[str, dict[str, Any]]


def _with_betas(kwargs: Kwargs, defaults: Kwargs) -> dict[str, Any]:
    own = dict(kwargs)
    beta1, beta2 = own.pop("betas", (0.9, 0.999))
    return {**defaults, **own, "beta1": beta1, "beta2": beta2}


def _sgd(kwargs: Kwargs) -> Called:
    hp = {"lr": 1e-3, **kwargs}
    if hp.pop("nesterov", False):
        return "nesterov", hp
    return "momentum" if "momentum" in hp else "sgd", hp


def _rmsprop(kwargs: Kwargs) -> Called:
    hp = {"lr": 1e-2, **kwargs}
    return "rmsprop", {**hp, "centered": "yes" if hp.get("centered") else "no"}


def _adam(kwargs: Kwargs) -> Called:
    hp = _with_betas(kwargs, {"lr": 1e-3})
    return "amsgrad" if hp.pop("amsgrad", False) else "adam", hp


def _adamw(kwargs: Kwargs) -> Called:
    hp = _with_betas(kwargs, {"lr": 1e-3, "weight_decay": 1e-2})
    if hp.pop("amsgrad", False):
        return "amsgrad", {**hp, "weight_decay_mode": "decoupled"}
    return "adamw", hp


def _nadam(kwargs: Kwargs) -> Called:
    hp = _with_betas(kwargs, {"lr": 2e-3})
    if hp.pop("decoupled_weight_decay", False):
        hp["weight_decay_mode"] = "decoupled"
    return "nadam", hp


MAPPING: dict[str, Callable[[Kwargs], Called]] = {
    "SGD": _sgd,
    "Adagrad": lambda kwargs: ("adagrad", {"lr": 1e-2, **kwargs}),
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "AdamW": _adamw,
    "NAdam": _nadam,
}
