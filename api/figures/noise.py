"""The gradient noise scale (in examples) over the examples seen, for the best trial of each optimizer.

The band is the 95 % interval. Where the interval has no upper bound, an upward arrow marks the lower bound (omitted
below one example, where it carries no information). A dotted line is the batch size in use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.figures.encode import floats, integers
from api.figures.sample import of_total, stride
from api.figures.theme import Figure, Trace, axis, colour, empty, faded, figure, log_axis, words
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


@dataclass(frozen=True)
class _Line:
    """The data drawn for one trial."""

    optimizer: str
    trial: int
    points: Sequence[NoisePoint]
    best: bool

    @property
    def label(self) -> str:
        return f"{words(self.optimizer)}, trial {self.trial}"

    def trace(self, points: Sequence[NoisePoint], y: Sequence[float], **more: Any) -> Trace:
        base = {"type": "scatter", "legendgroup": str(self.trial), "showlegend": False}
        return {**base, "x": integers([p.examples for p in points]), "y": floats(y), **more}

    def shade(self, alpha: float) -> str:
        return faded(colour(self.optimizer), alpha)


def noise(study: StudyView, trace: Sequence[NoisePoint]) -> Figure:
    """Draw the noise scale; the study's best trial is thicker and comes first."""
    known: dict[tuple[str, int], list[NoisePoint]] = {}
    for point in sorted(trace, key=lambda p: p.examples):
        if _arrow(point) or _measured(point):
            known.setdefault((point.optimizer, point.trial), []).append(point)
    if not known:
        return empty(NAME, "No noise scale has been measured.")
    best = study.best.number if study.best else None
    order = sorted(known, key=lambda key: (key[1] != best, key))[:LINES]
    lines = [_Line(*key, stride(known[key], POINTS), key[1] == best) for key in order]
    heights = [p.low if _arrow(p) else p.value for line in lines for p in line.points]
    return figure(
        NAME,
        [trace for line in lines for trace in (_band(line), _value(line), _arrows(line), _batch_size(line)) if trace],
        note=of_total(len(lines), len(known), "trials"),
        xaxis=axis("examples seen", rangemode="tozero"),
        yaxis=log_axis("noise scale (examples)", heights),
    )


def _measured(point: NoisePoint) -> bool:
    return point.bounded and _positive(point.value)


def _arrow(point: NoisePoint) -> bool:
    """Return whether there is only a lower bound and it is informative: every batch has at least one example."""
    return not point.bounded and _positive(point.low) and point.low >= 1


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _value(line: _Line) -> Trace:
    return line.trace(
        line.points,
        [p.value if _measured(p) else math.nan for p in line.points],
        mode="lines",
        name=f"best: {line.label}" if line.best else line.label,
        showlegend=True,
        customdata=floats([[p.trial, p.low, p.high, p.batch_size] for p in line.points]),
        line={"color": line.shade(1), "width": 2.6 if line.best else 1.4},
        hovertemplate=f"<b>{line.label}</b><br>%{{x:,}} examples<br>noise scale %{{y:.3s}}"
        " (%{customdata[1]:.3s} to %{customdata[2]:.3s})<br>batch size %{customdata[3]}<extra></extra>",
    )


def _band(line: _Line) -> Trace | None:
    """Return the interval as polygons, one per run of points that have both ends."""
    x: list[float] = []
    y: list[float] = []
    run: list[NoisePoint] = []
    for point in [*line.points, None]:
        if point is not None and point.bounded and _positive(point.low) and _positive(point.high):
            run.append(point)
        elif run:
            x += [*(p.examples for p in run), *(p.examples for p in reversed(run)), math.nan]
            y += [*(p.low for p in run), *(p.high for p in reversed(run)), math.nan]
            run = []
    if not x:
        return None
    look = {"fill": "toself", "fillcolor": line.shade(0.22 if line.best else 0.10), "hoverinfo": "skip"}
    edge = {"width": 0, "color": line.shade(1)}
    return line.trace([], y[:-1], mode="lines", line=edge, **look) | {"x": floats(x[:-1])}


def _arrows(line: _Line) -> Trace | None:
    points = [p for p in line.points if _arrow(p)]
    if not points:
        return None
    return line.trace(
        points,
        [p.low for p in points],
        mode="markers",
        customdata=integers([[p.trial] for p in points]),
        marker={"symbol": "arrow-up", "size": 9 if line.best else 7, "color": line.shade(1 if line.best else 0.6)},
        hovertemplate=f"<b>{line.label}</b><br>%{{x:,}} examples<br>noise scale at least %{{y:.3s}}<extra></extra>",
    )


def _batch_size(line: _Line) -> Trace:
    return line.trace(
        line.points,
        [p.batch_size for p in line.points],
        mode="lines",
        line={"color": line.shade(0.8), "width": 1.2, "dash": "dot", "shape": "hv"},
        hovertemplate=f"<b>{line.label}</b><br>batch size in use %{{y:,}}<extra></extra>",
    )
