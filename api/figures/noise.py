"""The gradient noise scale (in examples) over the examples seen, for the best trial of each optimizer.

The band is the 95 % interval. Where the interval has no upper bound, an upward arrow stands on the lower bound: the
noise scale is at least that. A dotted line is the batch size in use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.figures.encode import floats, integers
from api.figures.sample import of_total, stride
from api.figures.theme import Figure, Trace, axis, colour, empty, faded, figure, words
from tuner.wire.views import StudyView

NAME = "noise"
LINES = 12
POINTS = 150


@dataclass(frozen=True)
class NoisePoint:
    """One estimate along a trial. `value`, `low` and `high` are in examples and may be NaN or infinite."""

    optimizer: str
    trial: int
    examples: int
    value: float
    low: float
    high: float
    bounded: bool
    batch_size: int


def noise(study: StudyView, trace: Sequence[NoisePoint]) -> Figure:
    """Draw the noise scale; the study's best trial is heavier and comes first."""
    lines: dict[tuple[str, int], list[NoisePoint]] = {}
    for point in sorted(trace, key=lambda p: p.examples):
        if _positive(point.low) or (point.bounded and _positive(point.value)):
            lines.setdefault((point.optimizer, point.trial), []).append(point)
    if not lines:
        return empty(NAME, "No noise scale has been measured yet.")
    best = study.best.number if study.best else None
    ordered = sorted(lines, key=lambda key: (key[1] != best, key))
    data: list[Trace] = []
    for key in ordered[:LINES]:
        data += _traces(key, stride(lines[key], POINTS), highlight=key[1] == best)
    return figure(
        NAME,
        data,
        note=of_total(min(len(lines), LINES), len(lines), "trials"),
        xaxis=axis("examples seen", rangemode="tozero"),
        yaxis=axis("noise scale (examples)", log=True, dtick="D2"),
    )


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _traces(key: tuple[str, int], points: Sequence[NoisePoint], *, highlight: bool) -> list[Trace]:
    optimizer, number = key
    label = f"{words(optimizer)}, trial {number}"
    group: dict[str, Any] = {"type": "scatter", "legendgroup": f"{optimizer} {number}", "showlegend": False}
    shade = colour(optimizer)
    line = {
        **group,
        "mode": "lines",
        "name": f"best: {label}" if highlight else label,
        "showlegend": True,
        "x": integers([p.examples for p in points]),
        "y": floats([p.value if p.bounded and _positive(p.value) else math.nan for p in points]),
        "customdata": floats([[p.trial, p.low, p.high, p.batch_size] for p in points]),
        "line": {"color": shade, "width": 2.6 if highlight else 1.4},
        "hovertemplate": f"<b>{label}</b><br>%{{x:,}} examples<br>noise scale %{{y:.3s}}"
        " (%{customdata[1]:.3s} to %{customdata[2]:.3s})<br>batch size %{customdata[3]}<extra></extra>",
    }
    return [t for t in (_band(group, points, shade, highlight), line, _arrows(group, points, shade, label)) if t] + [
        _batch(group, points, shade, label)
    ]


def _band(group: dict[str, Any], points: Sequence[NoisePoint], shade: str, highlight: bool) -> Trace | None:
    """Return the interval as polygons, one per run of bounded points."""
    x: list[float] = []
    y: list[float] = []
    run: list[NoisePoint] = []
    for point in [*points, None]:
        if point is not None and point.bounded and _positive(point.low) and _positive(point.high):
            run.append(point)
        elif run:
            x += [*(p.examples for p in run), *(p.examples for p in reversed(run)), math.nan]
            y += [*(p.low for p in run), *(p.high for p in reversed(run)), math.nan]
            run = []
    if not x:
        return None
    return {
        **group,
        "mode": "lines",
        "x": floats(x[:-1]),
        "y": floats(y[:-1]),
        "fill": "toself",
        "fillcolor": faded(shade, 0.22 if highlight else 0.10),
        "line": {"width": 0, "color": shade},
        "hoverinfo": "skip",
    }


def _arrows(group: dict[str, Any], points: Sequence[NoisePoint], shade: str, label: str) -> Trace | None:
    open_ended = [p for p in points if not p.bounded and _positive(p.low)]
    if not open_ended:
        return None
    return {
        **group,
        "mode": "markers",
        "x": integers([p.examples for p in open_ended]),
        "y": floats([p.low for p in open_ended]),
        "customdata": integers([[p.trial] for p in open_ended]),
        "marker": {"symbol": "arrow-up", "size": 9, "color": shade},
        "hovertemplate": f"<b>{label}</b><br>%{{x:,}} examples<br>noise scale at least %{{y:.3s}}<extra></extra>",
    }


def _batch(group: dict[str, Any], points: Sequence[NoisePoint], shade: str, label: str) -> Trace:
    return {
        **group,
        "mode": "lines",
        "x": integers([p.examples for p in points]),
        "y": integers([p.batch_size for p in points]),
        "line": {"color": faded(shade, 0.8), "width": 1.2, "dash": "dot", "shape": "hv"},
        "hovertemplate": f"<b>{label}</b><br>batch size in use %{{y:,}}<extra></extra>",
    }
