"""The metric of every finished trial against its learning rate, per optimizer.

Log x always; log y when the metric is minimised and positive. The best trial of each optimizer is a star; infeasible
trials are crosses at the edge that means worse, so the learning rate beyond which training diverges can be read off.
"""

from collections.abc import Sequence

from api.figures.drawn import Drawn
from api.figures.encode import floats
from api.figures.marks import EDGE_AXIS, HOVER_TRIAL, about, at_edge, dots, star
from api.figures.sample import nothing, shown
from api.figures.theme import Figure, Trace, empty, figure, log_axis, value_axis, words
from tuner.wire.views import StudyView

NAME = "loss_vs_lr"


def loss_vs_lr(study: StudyView, trials: Sequence[Drawn]) -> Figure:
    """Draw value against learning rate."""
    points = shown(study, trials, needs=["lr"])
    if not points.finished and not points.infeasible:
        return empty(NAME, nothing(study, trials, "lr"))
    data: list[Trace] = []
    best: list[Trace] = []
    for optimizer in points.optimizers(study):
        group = points.of(optimizer)
        if group:
            data.append(dots(optimizer, *_xyc(group), _hover(study)))
            best.append(star(optimizer, *_xyc(group[:1]), _hover(study)))
    values = [trial.value or 0.0 for trial in points.finished]
    return figure(
        NAME,
        [*data, *best, *at_edge(study, points.infeasible)],
        note=points.note,
        xaxis=log_axis("learning rate", [trial.lr for trial in [*points.finished, *points.infeasible]]),
        yaxis=value_axis(words(study.metric), values, log=study.goal == "minimize"),
        yaxis2=EDGE_AXIS,
    )


def _xyc(group: Sequence[Drawn]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    return floats([t.lr for t in group]), floats([t.value or 0.0 for t in group]), about(group)


def _hover(study: StudyView) -> str:
    return f"{HOVER_TRIAL}<br>{words(study.metric)} %{{y:.4g}}"
