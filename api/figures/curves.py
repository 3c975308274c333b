"""Learning curves: the metric over examples seen, one line per trial in its optimizer's colour; the best is thicker.

At most 100 curves of 100 points. All lines of an optimizer form one trace with gaps, so the browser's work does not
depend on the number of trials. Log y when the metric is minimised and positive. Where no trial says how many
examples it has seen (code of the user's own may not count them), the curves are drawn over steps.
"""

import math
from collections.abc import Sequence

from api.figures.drawn import Drawn
from api.figures.encode import floats, integers
from api.figures.sample import best_first, finite, of_total, stride
from api.figures.theme import Figure, Trace, axis, colour, empty, faded, figure, value_axis, words
from tuner.wire.views import Curve, StudyView

NAME = "curves"
CURVES = 100
POINTS = 100


def curves(study: StudyView, trials: Sequence[Drawn], curves: Sequence[Curve]) -> Figure:
    """Draw the curves of one metric; curves without a finite value, or of trials not in `trials`, are left out."""
    numbers = {curve.number for curve in curves}
    by_number = {trial.number: trial for trial in trials if trial.number in numbers}
    drawable = [c for c in curves if c.number in by_number and any(map(math.isfinite, c.value))]
    if not drawable:
        return empty(NAME, "No trial has reported yet.")
    if not any(map(any, (curve.examples for curve in drawable))):
        drawable, unit = [curve.model_copy(update={"examples": curve.step}) for curve in drawable], "steps"
    else:
        unit = "examples"
    kept = _choose(study, [by_number[c.number] for c in drawable], drawable)
    best = next((t.number for t in best_first(study, [by_number[c.number] for c in kept])), None)
    data: list[Trace] = []
    names = [by_number[c.number].optimizer for c in kept]
    for optimizer in sorted(set(names), key=lambda name: (*_place(study, name), name)):
        group = [c for c, name in zip(kept, names, strict=True) if name == optimizer]
        data.append(_lines(optimizer, group, unit, highlight=False))
    if best is not None:
        winner = next(c for c in kept if c.number == best)
        data.append(_lines(by_number[best].optimizer, [winner], unit, highlight=True))
    values = [v for c in kept for v in c.value if math.isfinite(v)]
    begun = sum(trial.examples > 0 or trial.step > 0 for trial in trials)
    metric = kept[0].metric
    return figure(
        NAME,
        data,
        note=of_total(len(kept), max(len(drawable), begun), "trials"),
        xaxis=axis("examples seen" if unit == "examples" else "steps", rangemode="tozero"),
        yaxis=value_axis(words(metric), values, log=study.goal == "minimize"),
    )


def _place(study: StudyView, optimizer: str) -> tuple[int]:
    return (study.optimizers.index(optimizer) if optimizer in study.optimizers else len(study.optimizers),)


def _choose(study: StudyView, trials: Sequence[Drawn], drawable: Sequence[Curve]) -> list[Curve]:
    """Fill half of the limit with the best trials and half with a stride through the rest; the worst is drawn first."""
    rank = {trial.number: index for index, trial in enumerate(best_first(study, trials))}
    ordered = sorted(drawable, key=lambda c: (rank.get(c.number, len(rank)), c.number))
    if len(ordered) > CURVES:
        ordered = [*ordered[: CURVES // 2], *stride(ordered[CURVES // 2 :], CURVES - CURVES // 2)]
    return ordered[::-1]


def _lines(optimizer: str, group: Sequence[Curve], unit: str, *, highlight: bool) -> Trace:
    x: list[float] = []
    y: list[float] = []
    numbers: list[int] = []
    for curve in group:
        points = stride(list(zip(curve.examples, curve.value, strict=True)), POINTS)
        x += [*(float(examples) for examples, _ in points), math.nan]
        y += [*(value if finite(value) else math.nan for _, value in points), math.nan]
        numbers += [curve.number] * (len(points) + 1)
    shade = colour(optimizer)
    label = words(optimizer)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"best: trial {group[0].number}" if highlight else label,
        "x": floats(x[:-1]),
        "y": floats(y[:-1]),
        "customdata": integers([[number] for number in numbers[:-1]]),
        "line": {"color": shade if highlight else faded(shade, 0.5), "width": 3 if highlight else 1.1},
        "hovertemplate": f"<b>{label}</b> trial %{{customdata[0]}}<br>%{{x:,.0f}} {unit}"
        f"<br>{words(group[0].metric)} %{{y:.4g}}<extra></extra>",
    }
