"""Curves: a metric of a trial over the examples seen, thinned to a number of points."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from storage import reports
from storage.reports import ReportRow
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.wire.views import Curve


def curves(
    session: Session, study: StudyRecord, records: Sequence[TrialRecord], *, metric: str, points: int
) -> list[Curve]:
    """Return one curve per trial that reported anything."""
    rows = reports.effective_rows(session, trial_ids=[record.id for record in records], with_noise=False)
    return [_curve(study, record, rows[record.id], metric, points) for record in records if record.id in rows]


def curve(session: Session, study: StudyRecord, record: TrialRecord, *, metric: str, points: int) -> Curve:
    """Return one trial's curve, empty before its first report."""
    found = curves(session, study, [record], metric=metric, points=points)
    return found[0] if found else _curve(study, record, [], metric, points)


def _curve(study: StudyRecord, record: TrialRecord, rows: Sequence[ReportRow], metric: str, points: int) -> Curve:
    with_metric = thin([row for row in rows if metric in row.metrics], points)
    return Curve(
        study=study.name,
        number=record.number,
        metric=metric,
        metrics=sorted({name for row in rows for name in row.metrics}),
        step=[row.step for row in with_metric],
        examples=[row.examples for row in with_metric],
        value=[row.metrics[metric] for row in with_metric],
    )


def thin(rows: Sequence[ReportRow], points: int) -> list[ReportRow]:
    """Keep at most `points` rows, evenly spaced, including the last."""
    if len(rows) <= points:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / max(points - 1, 1))] for i in range(points)]
