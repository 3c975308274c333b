"""The place of each parameter: one flat row of P numbers per slot, with views of the parameters' own shapes.

Invariant: each row and each parameter in it starts at a multiple of 64 bytes. Vector kernels treat a misaligned head
differently from the rest, so without the padding a trial's bits would depend on its slot. Padding stays zero: a rule
that steps whole rows may make 0/0 of it, so who applies the rule leaves the padding out (`real`).
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tuner.optimizers.members import member

ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Place:
    """One parameter in the row: `size` numbers starting at `offset`."""

    name: str
    shape: torch.Size
    offset: int
    size: int
    turned: bool = False
    """Whether the numbers in the row are those of the transposed matrix, so that its view is not contiguous."""

    def view(self, flat: Tensor) -> Tensor:
        """Return the parameter in rows [n, P] as a view [n, *shape]."""
        numbers = flat[:, self.offset : self.offset + self.size]
        return numbers.view(-1, *reversed(self.shape)).mT if self.turned else numbers.view(-1, *self.shape)


class Layout:
    """The places of all parameters. `row` is P, the padded length of a slot's row."""

    def __init__(self, shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> None:
        unit = ALIGNMENT_BYTES // dtype.itemsize
        self.dtype = dtype
        self.places: list[Place] = []
        offset = 0
        for name, shape in shapes.items():
            self.places.append(Place(name, shape, offset, shape.numel()))
            offset += -(-shape.numel() // unit) * unit
        self.row = offset
        self.real = torch.zeros(offset, dtype=torch.bool)
        """Which numbers of a row are parameters, [P]; the others are padding."""
        for place in self.places:
            self.real[place.offset : place.offset + place.size] = True

    def apart(self, stacks: Collection[str]) -> "Layout":
        """Return the same rows with each matrix of these parameters [E, in, out] as a place of its own, [out, in]."""
        if not stacks:
            return self
        other = copy.copy(self)
        other.places = []
        for place in self.places:
            if place.name not in stacks:
                other.places.append(place)
                continue
            count, rows, columns = place.shape
            size = rows * columns
            for number in range(count):
                turned = torch.Size((columns, rows))
                other.places.append(Place(member(place.name, number), turned, place.offset + number * size, size, True))
        return other

    def runs(self, of: Mapping[str, int]) -> tuple["Layout", dict[str, int]]:
        """Return the same rows with parameters of one class that stand side by side as one place, and their classes.

        `of` is the class of each parameter. Such a place has one axis, and includes padding.
        """
        other, classes = copy.copy(self), {}
        starts = [p for last, p in zip([None, *self.places], self.places, strict=False) if _begins(last, p, of)]
        other.places = []
        for place, end in zip(starts, [*(p.offset for p in starts[1:]), self.row], strict=True):
            size = end - place.offset
            other.places.append(Place(place.name, torch.Size([size]), place.offset, size))
            classes[place.name] = of[place.name]
        return other, classes

    def allocate(self, rows: int, device: torch.device) -> Tensor:
        """Return zeros [rows, P]."""
        return torch.zeros(rows, self.row, dtype=self.dtype, device=device)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return each parameter of `flat` [n, P] as a view [n, *shape]."""
        return {place.name: place.view(flat) for place in self.places}

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return parameters [n, *shape] as rows [n, P], zeros in the padding."""
        ends = [*(place.offset for place in self.places[1:]), self.row]
        # Each part is padded separately: one pad around all of them would be a mask over every element of the row.
        rows = [
            pad(values[p.name].flatten(1), (0, end - p.offset - p.size))
            for p, end in zip(self.places, ends, strict=True)
        ]
        return torch.cat(rows, 1)

    def slot_views(self, row: Tensor) -> dict[str, Tensor]:
        """Return each parameter of one row [P] as a view of its own shape."""
        return {p.name: row[p.offset : p.offset + p.size].view(p.shape) for p in self.places}

    def write(self, row: Tensor, values: Mapping[str, Tensor]) -> None:
        """Copy a slot's parameters into its row [P]."""
        for name, view in self.slot_views(row).items():
            view.copy_(values[name].detach())


def _begins(last: Place | None, place: Place, of: Mapping[str, int]) -> bool:
    """Whether a run of one class begins at a place; `last` is the one before it."""
    return last is None or of[last.name] != of[place.name]
