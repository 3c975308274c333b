"""What a study has used of each of its budgets, as readers see it."""

from datetime import datetime

from sqlalchemy.orm import Session

from storage import usage
from storage.studies import StudyRecord
from storage.usage import Times
from tuner.study.spec import Budget
from tuner.study.states import TrialState
from tuner.wire.views import BudgetView


def spending(
    session: Session, study: StudyRecord, budget: Budget, counts: dict[TrialState, int], now: datetime
) -> list[BudgetView]:
    """Return a line for every budget: those that are set, and what costs time whether it is limited or not."""
    shown = [_view("runs", study.run_cap, study.runs, "trials")]
    if budget.examples is not None:
        shown.append(_view("examples", budget.examples, usage.examples(session, study_id=study.id), "examples"))
    shown += _timed(usage.times(session, study_id=study.id, now=now), budget)
    if failed := counts.get(TrialState.FAILED, 0):
        works = any(counts.get(state, 0) for state in (TrialState.COMPLETED, TrialState.PRUNED))
        shown.append(_view("failed", None if works else budget.max_failed, failed, "trials"))
    return shown


def _timed(used: Times, budget: Budget) -> list[BudgetView]:
    hours, price = used.device_hours, budget.price_per_device_hour
    shown = [
        _view("wall_clock", budget.wall_clock, used.wall_clock_s, "s"),
        _view("device_hours", budget.device_hours, hours, "h"),
    ]
    return [*shown, _view("cost", budget.cost, hours * price, "")] if price is not None else shown


def _view(name: str, limit: float | None, used: float, unit: str) -> BudgetView:
    left = None if limit is None else max(0.0, limit - used)
    return BudgetView.model_validate({"name": name, "limit": limit, "used": used, "left": left, "unit": unit})
