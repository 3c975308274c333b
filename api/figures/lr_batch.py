"""Learning rate against batch size, coloured by the metric: it shows where training works.

Both axes are logarithmic. The colour scale runs from the best value to the 80th percentile counted from the best, so
that a few bad trials do not stretch it; it is log10 for a positive metric that is minimised. Diverged trials are
crosses.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.figures.drawn import Drawn
from api.figures.encode import floats, integers
from api.figures.marks import HOVER_TRIAL, about
from api.figures.sample import nothing, shown
from api.figures.theme import BAD, INK, SCALE, Figure, Trace, empty, figure, log_axis, symbol, words
from tuner.wire.views import StudyView

NAME = "lr_batch"


def lr_batch(study: StudyView, trials: Sequence[Drawn]) -> Figure:
    """Draw learning rate against batch size."""
    points = shown(study, trials, needs=["lr", "batch_size"])
    everything = [*points.finished, *points.infeasible]
    if not everything:
        return empty(NAME, nothing(study, trials, "lr and batch_size"))
    values = np.array([trial.value for trial in points.finished], dtype=float)
    log = study.goal == "minimize" and bool((values > 0).all())
    data: list[Trace] = []
    for optimizer in points.optimizers(study):
        group = points.of(optimizer)
        if group:
            data += [_dots(study, optimizer, group, log), _legend(optimizer)]
    if points.infeasible:
        data.append(_crosses(points.infeasible))
    sizes = sorted({trial.batch_size for trial in everything})
    ticks = {"tickvals": sizes, "ticktext": [f"{size:,}" for size in sizes]} if len(sizes) <= 12 else {}
    layout: dict[str, Any] = {"coloraxis": _colour_axis(study, values, log)} if points.finished else {}
    return figure(
        NAME,
        data,
        note=points.note,
        xaxis=log_axis("learning rate", [trial.lr for trial in everything]),
        yaxis=log_axis("batch size (examples)", sizes, **ticks),
        **layout,
    )


def _dots(study: StudyView, optimizer: str, group: Sequence[Drawn], log: bool) -> Trace:
    values = [trial.value or 0.0 for trial in group]
    mark = {
        "color": floats([math.log10(v) for v in values] if log else values),
        "coloraxis": "coloraxis",
        "symbol": symbol(optimizer),
        "size": 10,
        "line": {"width": 0.6, "color": INK},
    }
    custom = np.array([[trial.number, trial.batch_size, value] for trial, value in zip(group, values, strict=True)])
    return {
        "type": "scatter",
        "mode": "markers",
        "name": words(optimizer),
        "legendgroup": optimizer,
        "showlegend": False,
        "x": floats([trial.lr for trial in group]),
        "y": integers([trial.batch_size for trial in group]),
        "customdata": floats(custom),
        "marker": mark,
        "hovertemplate": f"<b>{words(optimizer)}</b> {HOVER_TRIAL}"
        f"<br>{words(study.metric)} %{{customdata[2]:.4g}}<extra></extra>",
    }


def _legend(optimizer: str) -> Trace:
    """Return a legend entry without a point: the legend cannot show a marker whose colour is a number."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": words(optimizer),
        "legendgroup": optimizer,
        "x": [None],
        "y": [None],
        "marker": {"color": INK, "symbol": symbol(optimizer), "size": 8},
    }


def _crosses(group: Sequence[Drawn]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "infeasible",
        "x": floats([trial.lr for trial in group]),
        "y": integers([trial.batch_size for trial in group]),
        "customdata": about(group),
        "text": [words(f"{trial.optimizer}, {trial.reason or 'infeasible'}") for trial in group],
        "marker": {"color": BAD, "symbol": "x-thin-open", "size": 8, "line": {"width": 1.5}},
        "hovertemplate": f"<b>%{{text}}</b>: {HOVER_TRIAL}<extra></extra>",
    }


def _colour_axis(study: StudyView, values: NDArray[Any], log: bool) -> dict[str, Any]:
    shade = np.log10(values) if log else values
    ends = np.quantile(shade, [0.0, 0.8] if study.goal == "minimize" else [0.2, 1.0])
    low, high = float(ends[0]), float(max(ends[1], ends[0] + 1e-9))
    ticks = np.linspace(low, high, 4).tolist()
    return {
        "colorscale": SCALE,
        "reversescale": study.goal == "minimize",  # the bright end is the good one
        "cmin": low,
        "cmax": high,
        "colorbar": {
            "title": {"text": words(study.metric), "side": "right", "font": {"size": 12}},
            "thickness": 10,
            "outlinewidth": 0,
            "tickvals": ticks,
            "ticktext": _labels(study, [10**tick if log else tick for tick in ticks]),
        },
    }


def _labels(study: StudyView, values: Sequence[float]) -> list[str]:
    """Format the ticks of the colour scale; the tick at the worse end covers everything beyond it."""
    texts = [f"{value:.3g}" for value in values]
    worse = -1 if study.goal == "minimize" else 0
    texts[worse] = ("≥ " if study.goal == "minimize" else "≤ ") + texts[worse]
    return texts
