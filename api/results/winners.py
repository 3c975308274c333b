"""The winner and the leaderboard, with their evidence."""

from operator import attrgetter

from sqlalchemy.orm import Session

from api.plans import Plan
from api.results import batch_regime
from api.results.reading import Reading
from api.views import trial_view, trial_views
from storage import outcomes, trials
from storage.points import TrialPoint
from storage.studies import StudyRecord
from storage.trials import TrialRecord
from tuner.errors import NotFound
from tuner.handover import configuration, snippet
from tuner.search.ranking import median
from tuner.study.states import TrialState
from tuner.wire.views import Best, Leaderboard, LeaderboardRow, TrialView

ONE_SEED = (
    "Each configuration was trained with one seed, so the spread over seeds is unknown: differences between "
    "the leaders may be luck. Train the leaders with more seeds before relying on their order."
)


def best(session: Session, study: StudyRecord, plan: Plan) -> Best:
    """Return the best completed trial.

    Raises:
        NotFound: no trial has completed.
    """
    winner = trials.best(session, study_id=study.id, minimize=plan.minimize)
    if winner is None:
        raise NotFound(f"study {study.name!r} has no completed trial yet")
    completed = outcomes.count_by_state(session, study_id=study.id)[TrialState.COMPLETED]
    shown = trial_view(session, study, winner)
    regime = "" if plan.spec.external else batch_regime.in_words(shown.program, int(winner.params["batch_size"]))
    return Best(
        trial=shown,
        grade="D",
        interval=None,
        evidence=f"Grade D: {_best_of(completed)}. {ONE_SEED}{regime}",
        snippet=_code(plan, winner, shown),
    )


def _code(plan: Plan, winner: TrialRecord, shown: TrialView) -> str:
    if plan.spec.external:
        return configuration(winner.number, winner.params)
    return snippet(winner.params, winner.total_steps, shown.program)


def _best_of(completed: int) -> str:
    return "the only completed trial" if completed == 1 else f"the best of {completed} completed trials"


def leaderboard(reading: Reading) -> Leaderboard:
    """Rank the study's optimizers by their best completed trial; those without one come last."""
    study, plan = reading.study, reading.plan
    by_family: dict[str, list[TrialPoint]] = {family.optimizer: [] for family in plan.families}
    for trial in reading.trials:
        by_family.setdefault(trial.optimizer, []).append(trial)
    shown = _winners(reading, by_family)
    rows = [_row(family, members, shown.get(family)) for family, members in by_family.items()]
    sign = 1.0 if plan.minimize else -1.0
    rows.sort(key=lambda row: (row.best is None, sign * (row.best.value or 0.0) if row.best else 0.0))
    return Leaderboard(
        study=study.name,
        metric=plan.spec.metric.name,
        goal=plan.spec.metric.goal,
        rows=[row.model_copy(update={"rank": i}) for i, row in enumerate(rows, 1)],
        grade="D" if any(row.best for row in rows) else "none",
        evidence=ONE_SEED if any(row.best for row in rows) else "No trial has completed yet.",
    )


def _winners(reading: Reading, by_family: dict[str, list[TrialPoint]]) -> dict[str, TrialView]:
    """Return the best completed trial of each optimizer that has one; of equal ones, that with the lower number."""
    best_of = min if reading.plan.minimize else max
    found = [best_of(_completed(members), key=attrgetter("value"), default=None) for members in by_family.values()]
    records = trials.by_ids(reading.session, ids=[trial.id for trial in found if trial is not None])
    return {view.optimizer: view for view in trial_views(reading.session, reading.study, list(records.values()))}


def _completed(members: list[TrialPoint]) -> list[TrialPoint]:
    return [trial for trial in members if trial.state is TrialState.COMPLETED]


def _row(family: str, members: list[TrialPoint], best: TrialView | None) -> LeaderboardRow:
    completed = _completed(members)
    return LeaderboardRow(
        rank=0,
        optimizer=family,
        best=best,
        completed=len(completed),
        infeasible=sum(trial.state is TrialState.INFEASIBLE for trial in members),
        trials=len(members),
        median=median([trial.value for trial in completed if trial.value is not None]),
    )
