"""Whether a step's first gradients still hold the sum of the step before: a `zero_grad` that was forgotten.

A sum S of K micro-batches that nobody touched, plus one more, lies near S + S / K; zeroed, near S / K. Gradients are
only judged where nothing but one backward has written into the same memory since the step was closed (autograd's count
of writes), so a zeroed gradient is never judged by a jump of its size. Nothing is read back before the step is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Carried:
    """Compares the first gradients of a step with the last sum."""

    def __init__(self) -> None:
        self._writes: dict[int, tuple[int, int]] = {}
        """Parameter -> where its gradient lies, and how often it was written, after the newest micro-batch."""
        self._last: dict[int, Tensor] = {}
        """Parameter -> its sum when the last step was closed; float32."""
        self._count = 0
        """Micro-batches of that step."""
        self._sums: tuple[Tensor, Tensor] | None = None
        """Σ <g, S> and Σ |S|² over the parameters that are judged."""

    def note(self, index: int, stored: Tensor) -> None:
        """Remember where parameter number `index` has its gradient, and how often that was written."""
        self._writes[index] = stored.data_ptr(), stored._version

    def compare(self, index: int, stored: Tensor, grad: Tensor) -> None:
        """Judge a parameter's gradient after a step's first backward: as it is stored, and in float32."""
        last, seen = self._last.pop(index, None), self._writes.get(index)
        if last is None or seen is None or (stored.data_ptr(), stored._version) != (seen[0], seen[1] + 1):
            return
        inner, square = (grad * last).sum(), (last * last).sum()
        if self._sums is None:
            self._sums = inner, square
        else:
            self._sums = self._sums[0] + inner.to(self._sums[0].device), self._sums[1] + square.to(self._sums[1].device)

    def closes(self, count: int, sums: dict[int, Tensor]) -> bool:
        """Close a step of `count` micro-batches with these sums; returns whether it began with those of the last."""
        judged, before = self._sums, self._count
        self._last, self._count, self._sums = dict(sums), count, None
        if judged is None:
            return False
        inner, square = float(judged[0]), float(judged[1])
        return inner > (0.5 + 1 / before) * square > 0
