"""The best value so far against the number of trials finished.

Trials are counted in the order in which they finished, including infeasible ones (they used up budget too).
Replicates are left out: the best of several seeds of one configuration is luck, not progress.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from api.figures.drawn import Drawn
from api.figures.encode import floats, integers
from api.figures.marks import EDGE_AXIS, about, at_edge, dots
from api.figures.sample import finite, shown
from api.figures.theme import INK, Figure, Trace, axis, empty, figure, value_axis, words
from tuner.study.states import TrialState
from tuner.wire.views import StudyView

NAME = "progress"
COUNTED = (TrialState.COMPLETED, TrialState.INFEASIBLE, TrialState.PRUNED)


def progress(study: StudyView, trials: Sequence[Drawn]) -> Figure:
    """Draw the best value so far, and every trial as a dot."""
    order = _order(trials)
    points = shown(study, order)
    if not points.finished and not points.infeasible:
        return empty(NAME, "No trial has finished yet.")
    place = {trial.number: index for index, trial in enumerate(order, start=1)}
    hover = f"trial %{{customdata[0]}}, number %{{x}} to finish<br>{words(study.metric)} %{{y:.4g}}"
    data: list[Trace] = []
    for optimizer in points.optimizers(study):
        group = points.of(optimizer)
        if group:
            x = integers([place[trial.number] for trial in group])
            data.append(dots(optimizer, x, floats([trial.value or 0.0 for trial in group]), about(group), hover))
    for reason in sorted({trial.reason or "" for trial in points.infeasible}):
        bad = [trial for trial in points.infeasible if (trial.reason or "") == reason]
        edge = at_edge(study, bad, integers([place[trial.number] for trial in bad]))
        data += [trace | {"hovertemplate": "<b>%{text}</b> trial %{customdata[0]}<extra></extra>"} for trace in edge]
    if points.finished:
        data.append(_best_line(study, order))
    values = [trial.value or 0.0 for trial in points.finished]
    return figure(
        NAME,
        data,
        note=points.note,
        xaxis=axis("trials finished", rangemode="tozero"),
        yaxis=value_axis(words(study.metric), values, log=study.goal == "minimize"),
        yaxis2=EDGE_AXIS,
    )


def _order(trials: Sequence[Drawn]) -> list[Drawn]:
    first = datetime.min.replace(tzinfo=UTC)
    counted = [trial for trial in trials if trial.replicate == 0 and trial.state in COUNTED]
    return sorted(counted, key=lambda trial: (_utc(trial.finished_at) or first, trial.number))


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _best_line(study: StudyView, order: Sequence[Drawn]) -> Trace:
    """Return the best value as a step curve: one point per improvement, plus the end."""
    steps: list[tuple[int, float, int]] = []
    for index, trial in enumerate(order, start=1):
        value = trial.value
        if trial.state != TrialState.COMPLETED or value is None or not finite(value):
            continue
        if not steps or (value < steps[-1][1] if study.goal == "minimize" else value > steps[-1][1]):
            steps.append((index, value, trial.number))
    steps.append((len(order), steps[-1][1], steps[-1][2]))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": integers([step[0] for step in steps]),
        "y": floats([step[1] for step in steps]),
        "customdata": integers([[step[2]] for step in steps]),
        "line": {"color": INK, "width": 2, "shape": "hv"},
        "hovertemplate": f"best so far: trial %{{customdata[0]}}<br>{words(study.metric)} %{{y:.4g}}<extra></extra>",
    }
