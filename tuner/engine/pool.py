"""State whose shapes differ from the parameters': one flat row of Q numbers per trial of a rule that needs it.

Slabs [width, P] exist for every slot; factors of a Kronecker product or a history of steps are too large for that, so a
row exists only for slots with such a rule. Which row a slot has depends on its neighbours; the row's content does not.
"""

import torch
from torch import Tensor

from tuner.engine.applied_rule import AppliedRule
from tuner.engine.layout import Layout
from tuner.engine.slots import Ints
from tuner.optimizers.rule import State

Place = tuple[str, str, str]
"""Kind (`pools` or `trial`), name of the state, parameter (empty for a whole trial's)."""


class Pool:
    """The rows of one rule's trials."""

    def __init__(self, applied: AppliedRule, device: torch.device) -> None:
        shapes = {place.name: place.shape for place in applied.layout.places}
        self._places: dict[str, Place] = {}
        wanted: dict[str, torch.Size] = {}
        for name, per_parameter in applied.rule.pools(shapes).items():
            for parameter, shape in per_parameter.items():
                self._add(wanted, ("pools", name, parameter), shape)
        for name, shape in applied.trial_state().items():
            self._add(wanted, ("trial", name, ""), shape)
        self._layout = Layout(wanted, applied.layout.dtype)
        self._rows = self._layout.allocate(0, device)
        self._row_of: dict[int, int] = {}

    def _add(self, wanted: dict[str, torch.Size], place: Place, shape: tuple[int, ...]) -> None:
        key = ".".join(place)
        self._places[key] = place
        wanted[key] = torch.Size(shape)

    @property
    def size(self) -> int:
        """Q, the numbers per trial; 0 if the rule needs no pool."""
        return self._layout.row

    def take(self, slot: int) -> None:
        """Give a slot a row of zeros."""
        taken = set(self._row_of.values())
        row = self._row_of.get(slot, next(i for i in range(len(taken) + 1) if i not in taken))
        if row >= len(self._rows):
            more = self._layout.allocate(max(1, len(self._rows)), self._rows.device)
            self._rows = torch.cat([self._rows, more])
        self._rows[row].zero_()
        self._row_of[slot] = row

    def release(self, slot: int) -> None:
        """Release the slot's row."""
        self._row_of.pop(slot, None)

    def row(self, slot: int) -> Tensor:
        """Return a slot's row [Q] as a view."""
        return self._rows[self._row_of[slot]]

    def gather(self, slots: Ints) -> Tensor:
        """Copy the rows of some slots, [n, Q]."""
        return self._rows.index_select(0, self._index(slots))

    def scatter(self, slots: Ints, rows: Tensor) -> None:
        """Write back what `gather` copied."""
        self._rows.index_copy_(0, self._index(slots), rows)

    def show(self, rows: Tensor, state: State) -> None:
        """Make `state` refer to rows [n, Q] as the tensors that the rule declared."""
        for key, tensor in self._layout.views(rows).items():
            kind, name, parameter = self._places[key]
            if kind == "pools":
                state.pools.setdefault(name, {})[parameter] = tensor
            else:
                state.trial[name] = tensor

    def _index(self, slots: Ints) -> Tensor:
        rows = [self._row_of[slot] for slot in slots.tolist()]
        return torch.tensor(rows, device=self._rows.device)
