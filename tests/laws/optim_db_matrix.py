"""torch's own configurations of the matrix rules that it has, in our words: Muon alone."""

from collections.abc import Callable
from typing import Any

_NAMES = {"lr", "weight_decay", "momentum", "ns_steps"}


def _muon(kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Torch's defaults differ in lr (1e-3 against 0.02); its `original` scale and Nesterov momentum are ours."""
    options = {name: float(kwargs[name]) for name in _NAMES & kwargs.keys()}
    if "ns_coefficients" in kwargs:
        options |= dict(zip(("ns_a", "ns_b", "ns_c"), kwargs["ns_coefficients"], strict=True), coefficients="custom")
    return "muon", {"lr": 1e-3, **options}


MAPPING: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]] | None] = {"Muon": _muon}
"""torch's class -> from the keyword arguments of a configuration to our rule and hyperparameters."""
