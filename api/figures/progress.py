"""The best value so far against the number of trials finished.

Trials are counted in the order in which they finished, including infeasible ones (they used up budget too).
Replicates are left out: the best of several seeds of one configuration is luck, not progress.
"""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from api.figures.drawn import Drawn
from api.figures.encode import floats, integers
from api.figures.marks import EDGE_AXIS, about, at_edge, dots
from api.figures.sample import costs_of, shown
from api.figures.theme import INK, Figure, Trace, axis, empty, figure, value_axis, words
from tuner.study.states import TrialState
from tuner.wire.views import StudyView

NAME = "progress"
COUNTED = frozenset({TrialState.COMPLETED, TrialState.INFEASIBLE, TrialState.PRUNED})


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
    counted = [trial for trial in trials if trial.replicate == 0 and trial.state in COUNTED]
    counted.sort(key=attrgetter("number"))
    timed = [trial for trial in counted if trial.finished_at is not None]
    timed.sort(key=attrgetter("finished_at"))
    return [trial for trial in counted if trial.finished_at is None] + timed


def _best_line(study: StudyView, order: Sequence[Drawn]) -> Trace:
    """Return the best value as a step curve: one point per improvement, plus the end."""
    costs = costs_of(study, order)
    before = np.minimum.accumulate(np.concatenate([[np.inf], costs[:-1]]))
    better = np.flatnonzero(costs < before).tolist()
    steps = [(place + 1, order[place].value or 0.0, order[place].number) for place in better]
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
