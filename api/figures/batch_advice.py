"""Recommended batch sizes for each optimizer, on a log2 axis, with their evidence.

Per optimizer, from top to bottom: the interval of the critical batch size with its point estimate, then the
recommended ranges. A range is drawn slightly wider than its ends so that a range of a single batch size is still
visible; an interval without an upper bound extends to the edge and ends in an arrow. The grade is next to the
optimizer's name.
"""

import math
from collections.abc import Sequence
from typing import Any

from api.figures.encode import floats
from api.figures.theme import INK, Figure, Trace, axis, empty, figure, words
from tuner.wire.views import BatchAdvice, BatchAdviceList, BatchRange, StudyView

NAME = "batch_advice"
KINDS = (
    ("cheapest", "cheapest (fewest examples)", "#12a37b", 0.06),
    ("balanced", "balanced", "#2d7fc4", 0.22),
    ("fastest", "fastest (fewest seconds)", "#be820e", 0.38),
)
"""Field, legend, colour, and distance below the row's centre (rows are 1 apart)."""
PAD = 2**0.18


def batch_advice(study: StudyView, advice: BatchAdviceList) -> Figure:
    """Draw the recommended ranges; optimizers without any measurement keep their row and their grade."""
    items = list(advice.items)
    ends = [end for item in items for end in _ends(item)]
    if not ends:
        return empty(NAME, "No noise scale has been measured, so there is no advice.")
    low, high = math.floor(math.log2(min(ends))) - 0.5, math.ceil(math.log2(max(ends))) + 0.5
    data = [trace for trace in (_interval(items, 2**high), _critical(items), _arrows(items, 2**high)) if trace]
    data += [trace for kind in KINDS if (trace := _range(items, *kind))]
    step = max(1, math.ceil((high - low) / 12))
    powers = range(math.ceil(low), math.floor(high) + 1, step)
    return figure(
        NAME,
        data,
        height=max(340, 120 + 42 * len(items)),
        xaxis=axis(
            "batch size (examples)",
            type="log",
            range=[low * math.log10(2), high * math.log10(2)],
            tickvals=[2.0**p for p in powers],
            ticktext=[f"{2**p:,}" if p >= 0 else f"1/{2**-p}" for p in powers],
        ),
        yaxis=axis(
            "",
            range=[len(items) - 0.4, -0.6],
            tickvals=list(range(len(items))),
            ticktext=[f"{words(item.optimizer)}<br>{_grade(item)}" for item in items],
            showgrid=False,
        ),
    )


def _grade(item: BatchAdvice) -> str:
    return "not enough data" if item.grade == "none" else f"grade {item.grade}"


def _ends(item: BatchAdvice) -> list[float]:
    ranges = [item.cheapest, item.balanced, item.fastest]
    ends = [float(end) for r in ranges if r for end in (r.low, r.high)]
    ends += [*(item.interval or ()), *([item.critical_batch] if item.critical_batch is not None else [])]
    return [end for end in ends if math.isfinite(end) and end > 0]


def _interval(items: Sequence[BatchAdvice], edge: float) -> Trace | None:
    x: list[float] = []
    y: list[float] = []
    for row, item in enumerate(items):
        if item.interval and item.interval[0] > 0:
            x += [item.interval[0], min(item.interval[1], edge), math.nan]
            y += [row - 0.2, row - 0.2, math.nan]
    more = {"mode": "lines", "line": {"color": INK, "width": 2}, "hoverinfo": "skip"}
    return _trace("critical batch size, interval", x, y, more) if x else None


def _critical(items: Sequence[BatchAdvice]) -> Trace | None:
    known = [(row, item) for row, item in enumerate(items) if math.isfinite(item.critical_batch or math.nan)]
    more = {
        "mode": "markers",
        "marker": {"symbol": "diamond", "size": 10, "color": INK},
        "text": [words(item.optimizer) + _spread(item) for _, item in known],
        "hovertemplate": "<b>%{text}</b><br>critical batch size %{x:.3s}<extra></extra>",
    }
    x = [item.critical_batch or math.nan for _, item in known]
    return _trace("critical batch size", x, [row - 0.2 for row, _ in known], more) if known else None


def _arrows(items: Sequence[BatchAdvice], edge: float) -> Trace | None:
    rows = [r for r, i in enumerate(items) if i.interval and i.interval[0] > 0 and not math.isfinite(i.interval[1])]
    more = {
        "mode": "markers",
        "marker": {"symbol": "triangle-right", "size": 11, "color": INK},
        "showlegend": False,
        "hovertemplate": "no upper bound<extra></extra>",
    }
    return _trace("no upper bound", [edge / 1.1] * len(rows), [row - 0.2 for row in rows], more) if rows else None


def _range(items: Sequence[BatchAdvice], field: str, legend: str, shade: str, below: float) -> Trace | None:
    x: list[float] = []
    y: list[float] = []
    text: list[str] = []
    for row, item in enumerate(items):
        found: BatchRange | None = getattr(item, field)
        if found:
            x += [found.low / PAD, found.high * PAD, math.nan]
            y += [row + below, row + below, math.nan]
            text += [f"{words(item.optimizer)}: {field} {found.low:,} to {found.high:,}"] * 3
    more = {
        "mode": "lines",
        "line": {"color": shade, "width": 9},
        "text": text,
        "hovertemplate": "%{text}<extra></extra>",
    }
    return _trace(legend, x, y, more) if x else None


def _spread(item: BatchAdvice) -> str:
    return f" ({item.interval[0]:,.0f} to {item.interval[1]:,.0f})" if item.interval else ""


def _trace(name: str, x: Sequence[float], y: Sequence[float], more: dict[str, Any]) -> Trace:
    return {"type": "scatter", "name": name, "x": floats(x), "y": floats(y), **more}
