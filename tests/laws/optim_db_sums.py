"""How configurations of torch's optimizers translate into rules that sum over a trial's tensors."""

from collections.abc import Callable, Mapping
from typing import Any

Translation = Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]


def _adafactor(kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The d of torch is `clip_threshold`; its first eps of None is `eps1` 0."""
    first, second = kwargs.get("eps", (None, 1e-3))
    plain = {name: kwargs[name] for name in ("lr", "beta2_decay", "weight_decay") if name in kwargs}
    return "adafactor", {**plain, "eps1": first or 0.0, "eps2": second, "clip_threshold": kwargs.get("d", 1.0)}


MAPPING: dict[str, Translation | None] = {"Adafactor": _adafactor}
"""Name of torch's class -> from its arguments to rule and hyperparameters; None: the suite has no such rule."""
