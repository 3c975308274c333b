"""Queries on reports, and the effective curve.

A trial may have run in several attempts. Its effective curve is the rows of attempt a up to the step from which attempt
a + 1 resumed, for every a; nothing reads reports past `effective_rows`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from storage import tables as t
from storage.bulk import insert_encoded, table_of, upsert
from storage.columns import metrics_text


class Noise(NamedTuple):
    """Noise sums of the steps since the row before (see `tuner.noise.NoiseSums`)."""

    n: int
    s: float
    q: float
    ss: float
    qq: float
    sq: float


Key = tuple[int, int, int]
"""(trial id, attempt, step)."""
TABLE = table_of(t.Report)
SUMS = ("n", "s", "q", "ss", "qq", "sq")
MOST_SPANS = 100
"""Attempts per query: databases limit how long a condition may be."""


class ReportRow(NamedTuple):
    """One row of a curve."""

    trial_id: int
    attempt: int
    step: int
    examples: int
    elapsed_s: float
    metrics: dict[str, float]
    noise: Noise | None


NAMES = ("trial_id", "attempt", "step", "examples", "elapsed_s", "metrics", *(f"noise_{name}" for name in SUMS))


def add_new(session: Session, *, rows: Sequence[ReportRow]) -> None:
    """Store rows beyond all those that are stored of their attempts, no two of a step.

    Noise sums that are not finite are left out.
    """
    found = [(*row[:5], metrics_text(row.metrics), *_finite(row.noise)) for row in rows]
    insert_encoded(session, t.Report, NAMES, found)


def _finite(noise: Noise | None) -> tuple[int | float | None, ...]:
    """Return the sums; None for all of them where one is not finite."""
    if noise is None:
        return NOTHING
    return noise if math.isfinite(sum(noise)) or all(map(math.isfinite, noise)) else NOTHING


NOTHING = (None,) * len(SUMS)


def add(session: Session, *, rows: Sequence[ReportRow]) -> None:
    """Store rows, in one statement; a second report of the same (trial, attempt, step) adds its metrics to the first.

    Noise sums that are not finite are left out; those of a first report stay when the second has none.
    """
    merged: dict[Key, dict[str, Any]] = {}
    for row in rows:
        _merge(
            merged,
            {
                "trial_id": row.trial_id,
                "attempt": row.attempt,
                "step": row.step,
                "examples": row.examples,
                "elapsed_s": row.elapsed_s,
                "metrics": row.metrics,
                **{f"noise_{name}": value for name, value in zip(SUMS, _finite(row.noise), strict=True)},
            },
        )
    fresh = list(merged.values())
    for before in _stored(session, fresh):
        after = merged.pop((before["trial_id"], before["attempt"], before["step"]), None)
        if after is not None:
            _merge(merged, before)
            _merge(merged, after)
    upsert(session, t.Report, list(merged.values()))


def _merge(known: dict[Key, dict[str, Any]], row: dict[str, Any]) -> None:
    key = row["trial_id"], row["attempt"], row["step"]
    before = known.get(key)
    if before is None:
        known[key] = row
        return
    without = {k for k in row if k.startswith("noise_")} if row["noise_n"] is None else set()
    known[key] = {
        **before,
        **{k: v for k, v in row.items() if k not in without},
        "metrics": {**before["metrics"], **row["metrics"]},
    }


def _stored(session: Session, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is stored in the spans of steps that these rows cover."""
    spans: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        spans.setdefault((row["trial_id"], row["attempt"]), []).append(row["step"])
    found: list[dict[str, Any]] = []
    whole = list(spans.items())
    for part in (whole[i : i + MOST_SPANS] for i in range(0, len(whole), MOST_SPANS)):
        clauses = [
            and_(t.Report.trial_id == trial, t.Report.attempt == attempt, t.Report.step.between(min(steps), max(steps)))
            for (trial, attempt), steps in part
        ]
        found += [dict(row) for row in session.execute(select(TABLE).where(or_(*clauses))).mappings()]
    return found


NOISE = (t.Report.noise_n, t.Report.noise_s, t.Report.noise_q, t.Report.noise_ss, t.Report.noise_qq, t.Report.noise_sq)
POSITION = (t.Report.trial_id, t.Report.attempt, t.Report.step, t.Report.examples, t.Report.elapsed_s)


def effective_rows(
    session: Session, *, trial_ids: Sequence[int], with_metrics: bool = True, with_noise: bool = True
) -> dict[int, list[ReportRow]]:
    """Return each trial's effective curve, by step.

    Without metrics, only the rows that hold noise sums are read.
    """
    later = aliased(t.Attempt)
    # Rows past the point from which any later attempt resumed were not part of what went on.
    cut = (
        select(func.min(later.resumed_from))
        .where(later.trial_id == t.Report.trial_id, later.attempt > t.Report.attempt)
        .scalar_subquery()
    )
    # Columns, not entities: a figure reads thousands of rows.
    columns: list[Any] = [*POSITION, *([t.Report.metrics] if with_metrics else []), *(NOISE if with_noise else [])]
    query = select(*columns).where(
        t.Report.trial_id.in_(trial_ids), cut.is_(None) | ((t.Report.step <= cut) & (t.Report.step > 0))
    )
    if not with_metrics:
        query = query.where(t.Report.noise_n.is_not(None))
    curves: dict[int, list[ReportRow]] = {}
    for row in session.execute(query.order_by(t.Report.trial_id, t.Report.step, t.Report.attempt)):
        trial_id, attempt, step, examples, elapsed_s = row[:5]
        metrics = row[5] if with_metrics else {}
        noise = Noise(*row[-6:]) if with_noise and row[-6] else None
        curves.setdefault(trial_id, []).append(ReportRow(trial_id, attempt, step, examples, elapsed_s, metrics, noise))
    return curves
