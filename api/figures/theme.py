"""The look of figures: palette, symbols, fonts, margins, axes. One colour and one symbol per optimizer, everywhere.

Backgrounds are transparent and neutral colours have the same contrast on a light and on a dark page, so one figure
serves both; the dashboard only sets the text colour to its own. Colours are those of Okabe and Ito (2008), "Color
Universal Design", darkened or lightened until each has a contrast of 3 or more on both pages; symbols carry the same
information for readers who cannot see the colours. `api/static/js/palette.js` holds the same table (a test compares
them).
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

Figure = dict[str, Any]
"""A Plotly figure: `{"data": [trace, ...], "layout": {...}}`."""

Trace = dict[str, Any]

OTHER_COLOURS: tuple[str, ...] = ("#c972a2", "#8f7ad6", "#a0833c", "#7f8f3a", "#c2504f", "#5b989a", "#8e8e8e")
OTHER_SYMBOLS: tuple[str, ...] = ("pentagon", "hexagon", "hourglass", "bowtie", "star-square")

_FURTHER: tuple[str, ...] = (
    "adagrad",
    "rmsprop",
    "adam",
    "amsgrad",
    "nadam",
    "nadamw",
    "ademamix",
    "lion",
    "signum",
    "adafactor",
    "lamb",
    "lars",
    "schedule_free_sgd",
    "schedule_free_adamw",
    "prodigy",
    "scion",
    "shampoo",
    "soap",
    "psgd_kron",
    "steepest",
    "gd",
    "gd_exact",
    "gd_armijo",
    "gd_wolfe",
    "coordinate_descent",
    "bfgs",
    "lbfgs",
    "newton_cg",
)
"""In a fixed order: append new optimizers at the end, so that the others keep their colours and symbols."""

COLOURS: dict[str, str] = {
    "sgd": "#2d7fc4",
    "momentum": "#1c96d7",
    "nesterov": "#12a079",
    "adamw": "#be820e",
    "muon": "#dd5f1a",
    **{name: OTHER_COLOURS[place % len(OTHER_COLOURS)] for place, name in enumerate(_FURTHER)},
}
"""Colours of the catalogue's optimizers: five that most studies compare, and the rest, which share seven."""

SYMBOLS: dict[str, str] = {
    "sgd": "circle",
    "momentum": "square",
    "nesterov": "diamond",
    "adamw": "triangle-up",
    "muon": "triangle-down",
    **{name: OTHER_SYMBOLS[place // len(OTHER_COLOURS) % len(OTHER_SYMBOLS)] for place, name in enumerate(_FURTHER)},
}

INK = "#777d88"
GRID = "rgba(128, 134, 145, 0.20)"
LINE = "rgba(128, 134, 145, 0.55)"
BAD = "#c2504f"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
SCALE = "Cividis"
"""Sequential colour scale that reads the same with every kind of colour vision (Nuñez, Anderton and Renslow, 2018)."""


def colour(optimizer: str) -> str:
    """Return the optimizer's colour, `#rrggbb`."""
    return COLOURS.get(optimizer) or OTHER_COLOURS[sum(map(ord, optimizer)) % len(OTHER_COLOURS)]


def symbol(optimizer: str) -> str:
    """Return the optimizer's marker symbol."""
    return SYMBOLS.get(optimizer) or OTHER_SYMBOLS[sum(map(ord, optimizer)) % len(OTHER_SYMBOLS)]


def faded(hex_colour: str, alpha: float) -> str:
    """Return `#rrggbb` as an rgba() colour with the given opacity."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"


def words(text: str) -> str:
    """Escape a user's text: Plotly reads a subset of HTML in every label."""
    return escape(text, quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return a linear axis with the shared look."""
    base: dict[str, Any] = {
        "title": {"text": title, "standoff": 8, "font": {"size": 12}},
        "gridcolor": GRID,
        "linecolor": LINE,
        "zeroline": False,
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": LINE,
    }
    return base | more


def log_axis(title: str, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """Return a log10 axis for these values (only those > 0 count), with ticks written in full (0.02, not just 2).

    The requested number of ticks makes Plotly label decades if there are three or more, and otherwise the digits 1, 2
    and 5; with its default choice labels overlap.
    """
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    decades = math.log10(max(positive) / min(positive)) if positive else 0.0
    ticks = math.ceil(1.15 * decades) if decades >= 3 else max(4, math.floor(decades / 0.35))
    return axis(title, type="log", tickformat="~g", nticks=ticks, **more)


def value_axis(title: str, values: Sequence[float], *, log: bool) -> dict[str, Any]:
    """Return the axis of a metric: logarithmic when wanted, possible (all > 0) and useful (a span of 2 or more)."""
    useful = bool(values) and min(values) > 0 and max(values) >= 2 * min(values)
    return log_axis(title, values) if log and useful else axis(title)


def figure(name: str, data: Sequence[Trace], *, note: str = "", **layout: Any) -> Figure:
    """Return a figure in the shared theme. `note` (such as "n of N trials") is placed below the axis, on the right."""
    base: dict[str, Any] = {
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": FONT, "size": 12, "color": INK},
        "margin": {"l": 56, "r": 14, "t": 30, "b": 44},
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}, "entrywidth": 0},
        "uirevision": name,  # zoom and hidden legend entries survive an update
    }
    notes = list(layout.pop("annotations", []))
    if note:
        notes.append(_corner(note))
    return {"data": list(data), "layout": base | layout | {"annotations": notes}}


def empty(name: str, sentence: str) -> Figure:
    """Return a figure whose only content is a sentence that explains why there is nothing to draw."""
    text = {
        "text": sentence,
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "showarrow": False,
        "font": {"size": 14},
    }
    hidden = {"visible": False}
    return figure(name, [], xaxis=hidden, yaxis=hidden, annotations=[text])


def _corner(text: str) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": 1,
        "y": 0,
        "xanchor": "right",
        "yanchor": "top",
        "yshift": -26,
        "showarrow": False,
        "font": {"size": 11},
    }
