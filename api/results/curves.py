"""Curves: a metric of a trial over the examples seen, thinned to a number of points."""

from collections.abc import Sequence
from operator import attrgetter

from sqlalchemy.orm import Session

from api.results.reading import Reading
from storage import reports
from storage.points import TrialPoint
from storage.reports import ReportRow
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.study.states import TrialState
from tuner.wire.views import Curve

SHOWN, POINTS = 100, 100
"""Curves of a study's figure, and points of each."""


def of_study(reading: Reading) -> list[Curve]:
    """Return the curves of the best trials, then of others that have reported, by number."""
    seen = [trial for trial in reading.trials if trial.examples > 0 or trial.step > 0]
    done = [trial for trial in seen if trial.state is TrialState.COMPLETED]
    done.sort(key=attrgetter("value"), reverse=not reading.plan.minimize)
    shown = done[:SHOWN]
    if len(shown) < SHOWN:
        shown += [trial for trial in seen if trial.state is not TrialState.COMPLETED][: SHOWN - len(shown)]
    metric = reading.plan.spec.metric.name

    def read(trials: list[TrialPoint]) -> dict[int, Curve]:
        rows = reports.effective_rows(reading.session, trial_ids=[trial.id for trial in trials], with_noise=False)
        return {t.id: _curve(reading.study, t.number, rows.get(t.id, []), metric, POINTS) for t in trials}

    return [curve for curve in reading.board.of_settled("curves", shown, read).values() if curve.step]


def curve(session: Session, study: StudyRecord, record: TrialRecord, *, metric: str, points: int) -> Curve:
    """Return one trial's curve, empty before its first report."""
    rows = reports.effective_rows(session, trial_ids=[record.id], with_noise=False)
    return _curve(study, record.number, rows.get(record.id, []), metric, points)


def _curve(study: StudyRecord, number: int, rows: Sequence[ReportRow], metric: str, points: int) -> Curve:
    with_metric = thin([row for row in rows if metric in row.metrics], points)
    return Curve(
        study=study.name,
        number=number,
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
