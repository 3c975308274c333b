"""Metrics: plain functions of all outputs, and objects that take them part by part, as torchmetrics' do.

    fn(output, *targets) -> number                              kept outputs, so that an AUC is exact
    update(output, *targets) ..., compute() -> number           and optionally reset(), to(device)

The latter is given as an object, of which each evaluation gets a copy, or as a function without arguments that makes
one (a class is one, too).
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Streaming(Protocol):
    """A metric that adds up over parts of the data."""

    def update(self, output: Any, *targets: Any) -> Any:
        """Take a part of the data."""

    def compute(self) -> Any:
        """Return the value, one number."""


def streaming(metric: Any, device: torch.device) -> Streaming | None:
    """Return a fresh object of a metric that takes its data part by part; None for a plain function."""
    if not is_streaming(metric):
        return None
    made: Any = copy.deepcopy(metric) if _accumulates(metric) else metric()
    if hasattr(made, "to"):
        made = made.to(device)
    if hasattr(made, "reset"):
        made.reset()
    return made  # type: ignore[no-any-return]


def is_streaming(metric: Any) -> bool:
    """Whether a metric takes its data part by part."""
    return _accumulates(metric) or _is_factory(metric)


def _accumulates(metric: Any) -> bool:
    return not isinstance(metric, type) and hasattr(metric, "update") and hasattr(metric, "compute")


def _is_factory(metric: Callable[..., Any]) -> bool:
    if isinstance(metric, type):
        return hasattr(metric, "update") and hasattr(metric, "compute")
    try:
        return not inspect.signature(metric).parameters
    except (TypeError, ValueError):  # a builtin function
        return False
