"""A `collate_fn` that pads to the longest example of its batch, made to pad every batch to the same length.

It is always given the longest examples of the data set as well, whose rows are left out of the result. So the user's
own function decides how to pad, and an example has the same numbers whichever others it is read with: the trials of a
stack share shapes, and none depends on its neighbours. Lengths are found by reading every example once.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tuner.workloads.examples import Data, as_tensor
from tuner.workloads.tree import Structure

Collate = Callable[[list[Any]], Any]
Shapes = tuple[tuple[int, ...], ...]


class Padded:
    """The function, with the longest examples in every batch."""

    def __init__(self, collate: Collate, longest: Sequence[Any]) -> None:
        self._collate, self._longest = collate, longest

    def __call__(self, items: list[Any], flatten: Callable[[Any], Data]) -> Data:
        """Return the examples' own rows of a batch, as the tensors that `flatten` makes of it."""
        whole = flatten(self._collate([*items, *copy.deepcopy(self._longest)]))  # it may change what it gets
        return tuple(leaf[: len(items)] for leaf in whole)

    def holds_for(self, pair: list[Any]) -> bool:
        """Whether both examples of a pair have the same numbers alone, together and in the other order."""
        together, turned = self._leaves(pair), self._leaves(pair[::-1])
        alone = [self._leaves([item]) for item in pair]
        if len({len(leaves) for leaves in (together, turned, *alone)}) != 1:
            return False
        return all(
            same(whole, list(parts)) and same(back, list(parts[::-1]))
            for whole, back, parts in zip(together, turned, zip(*alone, strict=True), strict=True)
        )

    def _leaves(self, items: list[Any]) -> Data:
        return self(copy.deepcopy(items), leaves_of)


def stands_alone(collate: Collate, items: list[Any]) -> bool:
    """Whether each example has the same numbers and shapes among these as it has alone."""
    together = leaves_of(collate(copy.deepcopy(items)))
    alone = [leaves_of(collate(copy.deepcopy([item]))) for item in items]
    if len({len(leaves) for leaves in (together, *alone)}) != 1:
        return False
    return all(same(whole, list(parts)) for whole, parts in zip(together, zip(*alone, strict=True), strict=True))


def one_shape(collate: Collate, items: list[Any]) -> bool:
    """Whether all examples alone have the same shapes."""
    return len({_shapes(collate, item) for item in items}) == 1


def longest_of(collate: Collate, items: Iterator[Any]) -> list[Any]:
    """Return the fewest examples, first ones first, that have the most of every dim of every tensor among them."""
    most: list[list[int]] = []
    holders: dict[tuple[int, int], Any] = {}
    for item in items:
        shapes = _shapes(collate, item)
        if not most:
            most = [[-1] * len(shape) for shape in shapes]
        for place, shape in enumerate(shapes):
            for dim, size in enumerate(shape):
                if place < len(most) and dim < len(most[place]) and size > most[place][dim]:
                    most[place][dim] = size
                    holders[place, dim] = item
    return list({id(item): item for item in holders.values()}.values())


def _shapes(collate: Collate, item: Any) -> Shapes:
    return tuple(tuple(leaf.shape[1:]) for leaf in leaves_of(collate(copy.deepcopy([item]))))


def leaves_of(batch: Any) -> Data:
    """Return the tensors of a batch, in its own order."""
    return tuple(as_tensor(leaf) for leaf in Structure.of(batch)[1])


def same(whole: Tensor, parts: list[Tensor]) -> bool:
    """Whether the rows of a tensor are those of parts, in shape, type and number; NaN is itself."""
    if whole.dim() == 0 or any(part.shape[1:] != whole.shape[1:] for part in parts):
        return False
    if len(whole) != sum(map(len, parts)):
        return False
    joined = torch.cat(parts)
    return joined.dtype == whole.dtype and bool(((joined == whole) | ((joined != joined) & (whole != whole))).all())
