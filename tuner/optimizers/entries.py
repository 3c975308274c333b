"""Entries of the rules' hyperparameter tables; each rule specifies its own defaults, ranges and sources.

Entries with a search range take the default, then the bounds of the range, `low` and `high`, both inside the legal
range, then their source; `swept` is whether a study searches the range by default. Entries without a range keep their
default unless a study sets another value.
"""

from dataclasses import replace

from tuner.study.hyperparameter import Hyperparameter, Scaling, Search


def learning_rate(
    default: float, low: float, high: float, source: str, *, description: str = "learning rate; 0 means no update"
) -> Hyperparameter:
    """Return `lr`, at least 0, searched on a log scale and swept."""
    return non_negative("lr", default, description, low, high, source, swept=True)


def decay_rate(
    name: str, default: float, what: str, low: float, high: float, source: str, *, swept: bool = False
) -> Hyperparameter:
    """Return a number in [0, 1), the decay rate of an average of `what`."""
    return below_one(name, default, f"decay of {what}", low, high, source, swept=swept)


def below_one(
    name: str, default: float, description: str, low: float, high: float, source: str, *, swept: bool = False
) -> Hyperparameter:
    """Return a number in [0, 1), searched on a log scale of its distance from 1."""
    search = Search(min=low, max=high, scaling="reverse_log", swept=swept, source=source)
    return Hyperparameter(name, default, description, low=0.0, high=1.0, high_open=True, search=search)


def weight_decay(
    default: float,
    low: float,
    high: float,
    source: str,
    *,
    description: str = "decoupled decay: each step shrinks the parameter by the factor 1 - lr · weight_decay",
    swept: bool = True,
) -> Hyperparameter:
    """Return `weight_decay`, at least 0, searched on a log scale; decoupled unless the description says otherwise."""
    return non_negative("weight_decay", default, description, low, high, source, swept=swept)


def non_negative(
    name: str,
    default: float,
    description: str,
    low: float,
    high: float,
    source: str,
    *,
    swept: bool = False,
    scaling: Scaling = "log",
) -> Hyperparameter:
    """Return a number of at least 0, searched on a log scale, or a linear one for a range that may include 0."""
    search = Search(min=low, max=high, scaling=scaling, swept=swept, source=source)
    return Hyperparameter(name, default, description, low=0.0, search=search)


def fallback_lr_ratio(default: float, what: str, low: float, high: float, source: str) -> Hyperparameter:
    """Return the learning rate of the parameters that a matrix rule leaves to AdamW."""
    description = f"AdamW's learning rate for {what}, as a multiple of lr"
    return non_negative("fallback_lr_ratio", default, description, low, high, source)


def without_zero(entry: Hyperparameter) -> Hyperparameter:
    """Return the same entry with 0 no longer legal."""
    return replace(entry, low_open=True)


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


def limit(name: str, default: int, most: int, description: str) -> Hyperparameter:
    """Return a limit on a count: an integer from 1 to `most`, part of the program."""
    return Hyperparameter(name, default, description, low=1, high=most, integer=True, structural=True)


def fixed_number(name: str, default: float, description: str) -> Hyperparameter:
    """Return a number that is part of the program and has no range of its own."""
    return Hyperparameter(name=name, default=default, description=description, structural=True)
