"""Traces that several figures share: dots per optimizer, a star for the best, crosses for infeasible trials.

Infeasible trials have no value. They are drawn on a second, fixed y axis at the edge that means "worse": the top when
the goal is to minimise, the bottom when it is to maximise. Every point's `customdata` begins with its trial's number,
which the dashboard uses on a click.
"""

from collections.abc import Sequence
from typing import Any

from api.figures.drawn import Drawn
from api.figures.encode import floats, integers
from api.figures.theme import BAD, Trace, colour, symbol, words
from tuner.wire.views import StudyView

EDGE_AXIS: dict[str, Any] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
"""The axis `yaxis2` on which `at_edge` draws."""

HOVER_TRIAL = "trial %{customdata[0]}<br>lr %{x:.3g}, batch %{customdata[1]}"


def about(trials: Sequence[Drawn]) -> dict[str, str]:
    """Return `customdata` [n, 2]: trial number, batch size."""
    return integers([[trial.number, trial.batch_size] for trial in trials])


def dots(optimizer: str, x: dict[str, str], y: dict[str, str], custom: dict[str, str], hover: str) -> Trace:
    """Return one optimizer's trials as markers in its colour and symbol."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": words(optimizer),
        "legendgroup": optimizer,
        "x": x,
        "y": y,
        "customdata": custom,
        "marker": {"color": colour(optimizer), "symbol": symbol(optimizer), "size": 7, "opacity": 0.75},
        "hovertemplate": f"<b>{words(optimizer)}</b> {hover}<extra></extra>",
    }


def star(optimizer: str, x: dict[str, str], y: dict[str, str], custom: dict[str, str], hover: str) -> Trace:
    """Return the marker for the best trial of one optimizer."""
    mark = {"color": colour(optimizer), "symbol": "star", "size": 15, "line": {"width": 1, "color": "#ffffff"}}
    best = dots(optimizer, x, y, custom, f"best: {hover}")
    return best | {"marker": mark, "showlegend": False}


def at_edge(study: StudyView, trials: Sequence[Drawn], x: dict[str, str] | None = None) -> list[Trace]:
    """Return crosses for infeasible trials at the worse edge, one trace per reason; `x` defaults to the lr."""
    height = 0.975 if study.goal == "minimize" else 0.025
    traces = []
    for reason in sorted({trial.reason or "infeasible" for trial in trials}):
        group = [trial for trial in trials if (trial.reason or "infeasible") == reason]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words(reason),
                "x": floats([trial.lr for trial in group]) if x is None else x,
                "y": floats([height] * len(group)),
                "yaxis": "y2",
                "customdata": about(group),
                "text": [words(trial.optimizer) for trial in group],
                "marker": {"color": BAD, "symbol": "x-thin-open", "size": 8, "opacity": 0.8, "line": {"width": 1.5}},
                "hovertemplate": f"<b>%{{text}}</b> {words(reason)}: {HOVER_TRIAL}<extra></extra>",
            }
        )
    return traces
