"""Entries that the hyperparameter tables of matrix rules share; each rule says its own defaults, ranges and sources."""

from tuner.study.hyperparameter import Hyperparameter, Search


def learning_rate(default: float, low: float, high: float, source: str) -> Hyperparameter:
    """Return `lr`, searched on a log scale."""
    return Hyperparameter(
        name="lr",
        default=default,
        description="learning rate; 0 moves nothing",
        low=0.0,
        search=Search(min=low, max=high, scaling="log", source=source),
    )


def decay_rate(
    name: str, default: float, what: str, low: float, high: float, source: str, swept: bool = False
) -> Hyperparameter:
    """Return a number in [0, 1) that says how slowly an average forgets."""
    return Hyperparameter(
        name=name,
        default=default,
        description=f"decay of {what}",
        low=0.0,
        high=1.0,
        high_open=True,
        search=Search(min=low, max=high, scaling="reverse_log", swept=swept, source=source),
    )


def weight_decay(default: float, low: float, high: float, source: str) -> Hyperparameter:
    """Return the decoupled `weight_decay`."""
    return Hyperparameter(
        name="weight_decay",
        default=default,
        description="decoupled decay: each step shrinks the parameter by the factor 1 - lr · weight_decay",
        low=0.0,
        search=Search(min=low, max=high, scaling="log", source=source),
    )


def non_negative(name: str, default: float, description: str, low: float, high: float, source: str) -> Hyperparameter:
    """Return a number of at least 0, searched on a log scale when asked for."""
    return Hyperparameter(
        name=name,
        default=default,
        description=description,
        low=0.0,
        search=Search(min=low, max=high, scaling="log", swept=False, source=source),
    )


def choice(name: str, default: str, description: str, *others: str) -> Hyperparameter:
    """Return one of several names, the default first."""
    return Hyperparameter(name=name, default=default, description=description, choices=(default, *others))


def whole_number(name: str, default: int, description: str, least: int, low: float, high: float) -> Hyperparameter:
    """Return a number that fixes shapes or the order of operations."""
    return Hyperparameter(
        name=name,
        default=default,
        description=description,
        low=float(least),
        integer=True,
        structural=True,
        search=Search(min=low, max=high, scaling="log", swept=False, source="ours"),
    )


def fixed_number(name: str, default: float, description: str) -> Hyperparameter:
    """Return a number that is part of the program and has no range of its own."""
    return Hyperparameter(name=name, default=default, description=description, structural=True)
