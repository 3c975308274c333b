"""Rows that a loop has reported and the server has not acknowledged.

A server keeps a few hundred rows per trial well, not millions. The first `KEPT` reports are sent as they are; then two
at a time make a row, then four at a time ..., so that a million make about six thousand. Nothing is lost that counts:
rows that are joined keep the last value of each metric, of the study's own metric the best where that is what the study
compares, and the sum of their noise.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Sums = tuple[float, ...]
"""Of noise: n, s, q, ss, qq, sq, as `tuner.noise.NoiseSums.values` has them."""
KEPT = 1000
"""Reports until each row holds twice as many."""


@dataclass
class Row:
    """One row, of one report or several."""

    step: int
    examples: int
    elapsed_s: float
    metrics: dict[str, float]
    noise: Sums | None = None
    reports: int = 1


@dataclass
class Curve:
    """The rows of one attempt. Not thread-safe. `best` compares values of `metric`: `min`, `max`, or None for last."""

    metric: str | None = None
    best: str | None = None
    seen: set[str] = field(default_factory=set)
    """Metrics that were reported."""
    last: Row | None = None
    _rows: deque[Row] = field(default_factory=deque)
    _open: Row | None = None
    _reports: int = 0

    def __len__(self) -> int:
        return len(self._rows) + (self._open is not None)

    def add(self, row: Row) -> None:
        """Take a report."""
        self._reports += 1
        self.seen.update(row.metrics)
        self.last = row
        wide = self._width()
        self._open = row if self._open is None else self._joined(self._open, row)
        if self._open.reports >= wide:
            self.close()

    def close(self) -> None:
        """Have the last row sent as it is: the trial ends."""
        if self._open is not None:
            self._rows.append(self._open)
            self._open = None

    def ready(self, most: int) -> list[Row]:
        """Return the first rows to send, at most so many; they stay until `acknowledge`."""
        return [row for row, _ in zip(self._rows, range(most), strict=False)]

    def acknowledge(self, rows: Iterable[Row]) -> None:
        """Drop rows that the server has; they may have been dropped before."""
        carried = {id(row) for row in rows}
        while self._rows and id(self._rows[0]) in carried:
            self._rows.popleft()

    def _width(self) -> int:
        return 2 ** max(0, math.ceil(math.log2(self._reports / KEPT))) if self._reports > KEPT else 1

    def _joined(self, before: Row, row: Row) -> Row:
        metrics = {**before.metrics, **row.metrics}
        if self.best is not None and self.metric in before.metrics and self.metric in row.metrics:
            metrics[self.metric] = self._better(before.metrics, row.metrics)
        noises = [noise for noise in (before.noise, row.noise) if noise is not None]
        noise = tuple(map(sum, zip(*noises, strict=True))) if noises else None
        return Row(row.step, row.examples, row.elapsed_s, metrics, noise, before.reports + row.reports)

    def _better(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        values = [value[self.metric] for value in (before, after) if self.metric is not None]
        finite = [value for value in values if math.isfinite(value)] or values
        return min(finite) if self.best == "min" else max(finite)
