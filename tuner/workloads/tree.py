"""Nested containers: tuples, lists, dicts and other mappings, and dataclasses, with anything else as their leaves.

Data is flattened once, so that the engine moves flat tuples of tensors, and gets its shape back where the model is
called. Invariant: containers are rebuilt with their own types, such as the outputs of Hugging Face's models.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return a tree of the same shape with `function(leaf, *leaves of the others)` as its leaves, in order.

    The others must have the shape of the first. An object of a class that takes an index is a leaf even if the class is
    a dataclass: it may be data.
    """
    if isinstance(tree, Mapping):
        mapped = {key: map_leaves(function, value, *(other[key] for other in others)) for key, value in tree.items()}
        return mapped if type(tree) is dict else _filled(tree, mapped)
    if isinstance(tree, tuple | list):
        parts = [map_leaves(function, *each) for each in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if is_dataclass(tree) and not isinstance(tree, type) and not hasattr(tree, "__getitem__"):
        new = copy.copy(tree)
        for field in fields(tree):
            values = [getattr(each, field.name) for each in (tree, *others)]
            object.__setattr__(new, field.name, map_leaves(function, *values))
        return new
    return function(tree, *others)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves in order."""
    found: list[Any] = []
    map_leaves(found.append, tree)
    return found


def named_leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return (place, leaf), the place as it is written in Python: `train[0]['ids']`."""
    if isinstance(tree, Mapping):
        return [pair for key, value in tree.items() for pair in named_leaves(value, f"{name}[{key!r}]")]
    if isinstance(tree, tuple | list):
        return [pair for place, value in enumerate(tree) for pair in named_leaves(value, f"{name}[{place}]")]
    return [(name, tree)]


@dataclass(frozen=True)
class Structure:
    """How a flat tuple of tensors makes up the inputs and targets of a batch."""

    template: Any
    """A batch, (inputs, *targets), with the places of its tensors in the flat tuple as leaves."""

    @classmethod
    def of(cls, batch: Any) -> tuple["Structure", tuple[Any, ...]]:
        """Return the structure of a batch and its leaves. A dict by itself is the inputs, without targets."""
        found: list[Any] = []

        def number(leaf: Any) -> int:
            found.append(leaf)
            return len(found) - 1

        return cls(tuple(map_leaves(number, part) for part in _entries(batch))), tuple(found)

    def flatten(self, batch: Any) -> tuple[Any, ...]:
        """Return the leaves of another batch in this one's order, whatever the order of its keys.

        Raises `KeyError` or `ValueError` where it lacks some.
        """
        found: list[Any] = []
        map_leaves(lambda place, leaf: found.append(leaf), self.template, _entries(batch))
        return tuple(found)

    def inputs(self, data: tuple[Tensor, ...]) -> Any:
        """Return what the model gets: a tensor, or a tuple, list or dict of more."""
        return map_leaves(data.__getitem__, self.template[0])

    def targets(self, data: tuple[Tensor, ...]) -> list[Any]:
        """Return what the loss and the metrics get after the output."""
        return [map_leaves(data.__getitem__, part) for part in self.template[1:]]


def _entries(batch: Any) -> tuple[Any, ...]:
    if isinstance(batch, list | tuple):
        return tuple(batch)
    return (batch,)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Return `model(**inputs)` for a dict, `model(*inputs)` for a tuple or list, and otherwise `model(inputs)`."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _filled(mapping: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """Return a copy of a mapping with other values: also for those that keep them as attributes, too."""
    new: Any = copy.copy(mapping)
    for key, value in values.items():
        new[key] = value
    return new
