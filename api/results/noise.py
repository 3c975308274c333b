"""Noise scales and batch-size advice of a study, from the noise sums of its rows."""

import math
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any, TypedDict, get_args

from sqlalchemy.orm import Session

from api.figures import NoisePoint
from api.plans import Plan
from api.results.reading import Reading
from api.results.step_times import Timed
from storage import attempts, reports, trials
from storage.points import TrialPoint
from storage.reports import ReportRow
from storage.studies import StudyRecord
from tuner.noise import Advice, Kind, Measurement, NoiseSums, advise, estimate_from_rows
from tuner.study.states import TrialState
from tuner.wire.views import BatchAdvice, BatchAdviceList, BatchRange, NoiseView

MEASURED = 60
"""How many trials per optimizer the advice uses: the best ones."""
TRACE_POINTS, TRACE_WINDOWS = 30, 6
"""Points of a trace, and how many windows fit into a run: narrow windows have no upper bound."""


def sums(rows: Sequence[ReportRow]) -> list[NoiseSums]:
    """Return the noise sums of the rows that have them."""
    return [NoiseSums(*row.noise) for row in rows if row.noise is not None]


def batch_advice(reading: Reading, timed: Timed | None = None) -> BatchAdviceList:
    """Advise a batch size for every optimizer of a study, the winner's first. It depends on `_chosen` trials alone.

    `timed`: the step times of a reader, who gets an answer of their own.
    """
    chosen = _chosen(reading)
    if timed is not None:
        return _advise(reading, chosen, timed)
    key = tuple(trial.id for trial in chosen)
    return reading.board.derived("batch_advice", key, lambda: _advise(reading, chosen, None))


def _advise(reading: Reading, chosen: Sequence[TrialPoint], timed: Timed | None) -> BatchAdviceList:
    study, plan = reading.study, reading.plan
    measured, learnt = _measurements(reading, chosen)
    ranked = [m for m in measured if m.ranked and m.value is not None]
    sign = 1.0 if plan.minimize else -1.0
    leaders = list(dict.fromkeys(m.family for m in sorted(ranked, key=lambda m: sign * (m.value or 0.0))))
    order = leaders + [f.optimizer for f in plan.families if f.optimizer not in leaders]
    goal = plan.spec.metric.goal
    found = [
        advise(measured, goal=goal, family=family, throughput=timed.of(family) if timed else None, **learnt)
        for family in order
    ]
    items = [_view(study, advice, family) for advice, family in zip(found, order, strict=True)]
    if plan.spec.external:
        items = [_of_own_code(item, _completed(reading)[item.optimizer]) for item in items]
    return BatchAdviceList(study=study.name, items=items)


class _Learnt(TypedDict):
    """What the engine reported of the study's task."""

    kind: Kind
    batch_norm: bool


def _chosen(reading: Reading) -> list[TrialPoint]:
    """Return the best completed trials, and the diverged ones: they bound the learning rates that work.

    Of each optimizer only those whose models have the shape of its best one: the noise of another model is another
    noise. Values (`tuner.Value`) are hyperparameters like others, whose scatter the advice allows for.
    """
    diverged: dict[str, list[TrialPoint]] = {}
    for trial in reading.trials:
        told = trial.lr > 0 and trial.batch_size > 0
        if trial.state is TrialState.INFEASIBLE and trial.reason == "diverged" and told:
            diverged.setdefault(trial.optimizer, []).append(trial)
    chosen: list[TrialPoint] = []
    for family, completed in _completed(reading).items():
        usable = [trial for trial in completed if trial.lr > 0 and trial.batch_size > 0]
        same = _shaped_like(reading, usable[0]) if usable else None
        for found in (usable, diverged.get(family, [])):
            chosen += [trial for trial in found if same is None or trial.number in same][:MEASURED]
    return chosen


def _shaped_like(reading: Reading, trial: TrialPoint) -> frozenset[int] | None:
    """Return the numbers of the trials whose models have a trial's shape; None where all have."""
    session, study, plan = reading.session, reading.study, reading.plan
    if plan.stacks is not None:
        return None

    def read() -> frozenset[int]:
        (record,) = trials.by_ids(session, ids=[trial.id]).values()
        return frozenset(trials.numbers_in(session, study_id=study.id, stacks=plan.population(record.params)))

    return reading.board.derived(f"shaped_like_{trial.optimizer}", (trial.id, study.revision), read)


def _completed(reading: Reading) -> dict[str, list[TrialPoint]]:
    """Return the completed trials of each optimizer of the study, best first; the lower number wins a tie."""
    return reading.board.derived("completed", reading.study.revision, lambda: _ranked(reading))


def _ranked(reading: Reading) -> dict[str, list[TrialPoint]]:
    found: dict[str, list[TrialPoint]] = {family.optimizer: [] for family in reading.plan.families}
    for trial in reading.trials:
        if trial.state is TrialState.COMPLETED and trial.optimizer in found:
            found[trial.optimizer].append(trial)
    for completed in found.values():
        completed.sort(key=attrgetter("value"), reverse=not reading.plan.minimize)
    return found


Measured = tuple[tuple[NoiseSums, ...], dict[str, Any]]
"""The noise sums of a trial, and the program of its last attempt."""


def _measurements(reading: Reading, chosen: Sequence[TrialPoint]) -> tuple[list[Measurement], _Learnt]:
    found = reading.board.of_settled("noise", chosen, lambda trials: _read(reading.session, trials))
    measured = [_measurement(reading.plan, trial, *found[trial.id]) for trial in chosen]
    return measured, _learnt([program for _, program in found.values()])


def _read(session: Session, chosen: Sequence[TrialPoint]) -> dict[int, Measured]:
    ids = [trial.id for trial in chosen]
    rows = reports.effective_rows(session, trial_ids=ids, with_metrics=False)
    programs = attempts.programs(session, trial_ids=ids)
    return {key: (tuple(sums(rows.get(key, []))), programs.get(key, {})) for key in ids}


def _learnt(programs: Collection[dict[str, Any]]) -> _Learnt:
    """Read the kind of task, `other` where no attempt says one that is known, and whether examples share statistics."""
    kinds = [program["kind"] for program in programs if program.get("kind") in get_args(Kind)]
    dependent = any(program.get("batch_dependent") is True for program in programs)
    return {"kind": kinds[-1] if kinds else "other", "batch_norm": dependent}


def _measurement(plan: Plan, trial: TrialPoint, rows: tuple[NoiseSums, ...], program: dict[str, Any]) -> Measurement:
    completed = trial.state is TrialState.COMPLETED
    micro_batch = plan.group({"batch_size": trial.batch_size}).micro_batch
    if plan.spec.external:
        rows, micro_batch = _told(trial, rows, program)
    return Measurement(
        batch_size=trial.batch_size,
        lr=trial.lr,
        family=trial.optimizer,
        value=trial.value,
        completed=completed,
        rows=rows if completed else (),
        micro_batch=micro_batch,
        dataset_size=program.get("train_examples"),
        number=trial.number,
    )


def _told(trial: TrialPoint, rows: tuple[NoiseSums, ...], program: dict[str, Any]) -> tuple[tuple[NoiseSums, ...], int]:
    """Return the noise sums that own code measured and its micro-batch; none where that does not divide the batch."""
    told = program.get("micro_batch")
    fits = isinstance(told, int) and told > 0 and trial.batch_size % told == 0
    return (rows, told) if fits and isinstance(told, int) else ((), trial.batch_size)


def _view(study: StudyRecord, advice: Advice, family: str) -> BatchAdvice:
    scale = advice.noise_scale
    return BatchAdvice(
        study=study.name,
        optimizer=family,
        grade=advice.grade or "none",
        grade_meaning=advice.grade_text,
        headline=advice.headline,
        trial=advice.trial,
        noise_scale=NoiseView(
            value=scale.value, low=scale.low, high=scale.high, bounded=scale.bounded, steps=scale.steps
        )
        if scale is not None
        else None,
        critical_batch=advice.critical_batch,
        interval=advice.interval,
        cheapest=_range(advice.cheapest),
        balanced=_range(advice.balanced),
        fastest=_range(advice.fastest),
        regret=advice.regret,
        lr=_learning_rate(advice),
        notes=list(advice.notes),
        next_experiment=advice.next_experiment,
    )


OWN_CODE = (
    "Report batch_size and lr as hyperparameters, and the noise of your gradients: tuner.noise.Meter, "
    "trial.report(..., noise=meter)."
)


def _of_own_code(view: BatchAdvice, completed: Sequence[TrialPoint]) -> BatchAdvice:
    """Say of trials of the user's own code what is missing for advice: only that code can measure it."""
    if view.grade != "none" or not completed:
        return view
    if any(trial.lr > 0 and trial.batch_size > 0 for trial in completed):
        missing = "no completed trial reported enough of its gradient noise"
    else:
        missing = "its trials have no hyperparameters batch_size and lr"
    return view.model_copy(update={"headline": f"No advice: {missing}.", "next_experiment": OWN_CODE, "notes": []})


def _range(found: tuple[float, float] | None) -> BatchRange | None:
    if found is None or not math.isfinite(found[1]):
        return None
    return BatchRange(low=max(1, int(found[0])), high=max(1, int(found[1])))


def _learning_rate(advice: Advice) -> str:
    rate = advice.lr
    if rate is None:
        return ""
    listed = "; ".join(f"batch {size}: {low:.2g} to {high:.2g}" for size, low, high in rate.table)
    return (
        f"Tuned: lr {rate.lr:.3g} at batch {rate.batch_size}. At another batch size multiply by (gain in steps)^alpha, "
        f"alpha {rate.alpha_low:g} to {rate.alpha_high:g}: {listed}."
    )


def noise_trace(reading: Reading) -> list[NoisePoint]:
    """Trace the noise scale over the best trial of each optimizer."""
    best = [completed[0] for completed in _completed(reading).values() if completed]
    trace = lambda: [point for trial in best for point in trial_trace(reading.session, trial)]  # noqa: E731
    return reading.board.derived("noise_trace", tuple(trial.id for trial in best), trace)


def trial_trace(session: Session, trial: TrialPoint) -> list[NoisePoint]:
    """Trace the noise scale along one trial, each point over the window of rows that ends there."""
    rows = reports.effective_rows(session, trial_ids=[trial.id], with_metrics=False).get(trial.id, [])
    attempt = attempts.latest(session, trial_ids=[trial.id]).get(trial.id)
    size = (attempt.program or {}).get("train_examples") if attempt else None
    if not rows:
        return []
    width = max(8, len(rows) // TRACE_WINDOWS)
    points = []
    for end in range(min(width, len(rows)), len(rows) + 1, max(1, len(rows) // TRACE_POINTS)):
        window = rows[max(0, end - width) : end]
        found = estimate_from_rows(sums(window), dataset_size=size)
        points.append(
            NoisePoint(
                optimizer=trial.optimizer,
                trial=trial.number,
                examples=window[-1].examples,
                value=found.value,
                low=found.low,
                high=found.high,
                bounded=found.bounded,
                batch_size=trial.batch_size,
            )
        )
    return points
