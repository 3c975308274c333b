"""The report rows of a request, by lease: which are new, and how far each trial has got.

A row beyond every step that its trial has reached cannot be stored yet: such rows, almost all, are stored without a
look at those that are. The others came before, or share a step with another, and are merged.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from sqlalchemy.orm import Session

from api.sync.leases import Key, Lease
from storage import reports
from storage.reports import Noise, ReportRow
from tuner.wire.sync import Report


@dataclass
class Curves:
    """Rows to store. `furthest` is the last row of each trial all of whose rows in this request are new."""

    new: list[ReportRow] = field(default_factory=list)
    others: list[ReportRow] = field(default_factory=list)
    furthest: dict[Key, Report] = field(default_factory=dict)

    def take(
        self, rows: Iterable[Report], lease_of: Callable[[int, int], Lease | None]
    ) -> Iterable[tuple[Lease, Report]]:
        """Sort rows in, those of no lease are left out; yield each lease with the row that it has got to.

        A trial's ticks are noted here; its progress is the caller's to note, before the next is asked for.
        """
        grouped: dict[Key, list[Report]] = {}
        for row in rows:
            grouped.setdefault((row.trial, row.attempt), []).append(row)
        for key, own in grouped.items():
            lease = lease_of(*key)
            if lease is None:
                continue
            self._sort(key, own, lease.trial.step)
            longest = max(own, key=lambda row: row.ticks)
            if longest.ticks > lease.attempt.ticks:
                lease.attempt = replace(lease.attempt, ticks=longest.ticks, computed=longest.computed)
            yield lease, max(own, key=lambda row: row.step)

    def _sort(self, key: Key, rows: list[Report], reached: int) -> None:
        begun = len(self.new)
        for row in rows:
            sums = row.noise
            noise = None if sums is None else Noise(sums.n, sums.s, sums.q, sums.ss, sums.qq, sums.sq)
            kept = ReportRow(*key, row.step, row.examples, row.elapsed_s, row.metrics, noise)
            (self.new if row.step > reached else self.others).append(kept)
            reached = max(reached, row.step)
        if len(self.new) - begun == len(rows):
            self.furthest[key] = rows[-1]

    def value(self, lease: Lease) -> float | None:
        """Return the last value of what the study compares, if it can be told from these rows alone."""
        last, metric = self.furthest.get(lease.key), lease.plan.spec.metric
        value = last.metrics.get(metric.name) if last is not None and metric.at == "last" else None
        return value if value is not None and math.isfinite(value) else None

    def store(self, session: Session) -> None:
        """Write the rows."""
        reports.add_new(session, rows=self.new)
        reports.add(session, rows=self.others)
