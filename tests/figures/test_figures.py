"""Every figure: valid for Plotly, small, deterministic, honest about what it leaves out, and never an error."""

import gzip
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import plotly.graph_objects as go
import pytest
from figure_inputs import make_advice, make_curve, make_noise, make_study, make_trial, make_trials

from api import figures
from api.figures import FIGURES, Figure
from api.figures.encode import decode
from tuner.study.states import TrialState
from tuner.wire.views import BatchAdviceList, StudyView, TrialView

Build = Callable[[StudyView, list[TrialView]], Figure]

BUILDERS: dict[str, Build] = {
    "curves": lambda study, trials: figures.curves(study, trials, [make_curve(trial) for trial in trials[:400]]),
    "loss_vs_lr": figures.loss_vs_lr,
    "lr_batch": figures.lr_batch,
    "progress": figures.progress,
    "noise": lambda study, trials: figures.noise(study, make_noise(trials[:5])),
    "batch_advice": lambda study, trials: figures.batch_advice(
        study, make_advice() if trials else BatchAdviceList(study="demo", items=[])
    ),
}


def points_of(figure: Figure) -> int:
    """Count the points of the largest group of traces that show one thing."""
    return sum(len(decode(trace["x"])) for trace in figure["data"] if isinstance(trace["x"], dict))


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, float):
        yield value


@pytest.fixture(scope="module")
def many() -> list[TrialView]:
    return make_trials(10_000)


def test_every_figure_is_documented_and_has_a_builder() -> None:
    assert set(FIGURES) == set(BUILDERS) == {name for name in FIGURES if callable(getattr(figures, name))}
    assert all(text.endswith(".") for text in FIGURES.values())


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_plotly_accepts_it(name: str, goal: str) -> None:
    trials = make_trials(64)
    figure = BUILDERS[name](make_study(trials, goal=goal), trials)
    checked = go.Figure(figure)  # raises for any unknown or illegal attribute
    assert len(checked.data) == len(figure["data"]) > 0
    # WebGL traces and parcoords evaluate generated code, which the dashboard's policy forbids.
    assert {trace["type"] for trace in figure["data"]} == {"scatter"}


@pytest.mark.parametrize("name", FIGURES)
def test_strict_json_without_a_non_finite_number(name: str) -> None:
    bad = [
        make_trial(1, value=math.nan),
        make_trial(2, value=math.inf),
        make_trial(3, value=-math.inf),
        make_trial(4, value=0.5),
    ]
    figure = BUILDERS[name](make_study(bad), bad)
    json.dumps(figure, allow_nan=False)
    assert all(math.isfinite(number) for number in numbers_in(figure["layout"]))


@pytest.mark.parametrize("name", FIGURES)
def test_no_trial_gives_a_sentence(name: str) -> None:
    figure = BUILDERS[name](make_study([]), [])
    assert figure["data"] == []
    assert figure["layout"]["annotations"][0]["text"].startswith("No ")
    go.Figure(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_running_trials_alone_are_no_error(name: str) -> None:
    trials = [make_trial(n, state=TrialState.RUNNING, value=None, finished_at=None, reason=None) for n in range(4)]
    figure = BUILDERS[name](make_study(trials), trials)
    go.Figure(figure)
    assert figure["data"] or figure["layout"]["annotations"]


@pytest.mark.parametrize("name", FIGURES)
def test_infeasible_trials_alone_are_no_error(name: str) -> None:
    trials = [make_trial(n, state=TrialState.INFEASIBLE, value=None, reason="diverged") for n in range(4)]
    figure = BUILDERS[name](make_study(trials), trials)
    go.Figure(figure)
    assert figure["data"] or figure["layout"]["annotations"]


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_input_gives_the_same_bytes(name: str, many: list[TrialView]) -> None:
    study, some = make_study(many), many[:3000]
    assert json.dumps(BUILDERS[name](study, some)) == json.dumps(BUILDERS[name](study, some))


@pytest.mark.parametrize("name", ["loss_vs_lr", "lr_batch", "progress"])
def test_the_order_of_the_trials_does_not_matter(name: str, many: list[TrialView]) -> None:
    study, some = make_study(many), many[:3000]
    assert BUILDERS[name](study, some) == BUILDERS[name](study, some[::-1])


def test_ten_thousand_trials_fit_a_page(many: list[TrialView]) -> None:
    study = make_study(many)
    size = {name: len(gzip.compress(json.dumps(build(study, many)).encode())) for name, build in BUILDERS.items()}
    assert sum(size.values()) <= 200_000, size


@pytest.mark.parametrize("name", ["loss_vs_lr", "lr_batch", "progress"])
def test_points_are_limited_and_it_says_so(name: str, many: list[TrialView]) -> None:
    figure = BUILDERS[name](make_study(many), many)
    assert 1900 <= points_of(figure) <= 2000 + 100  # stars and the steps of the best value come on top
    assert figure["layout"]["annotations"][-1]["text"] == "2,000 of 10,000 trials"


@pytest.mark.parametrize("name", ["loss_vs_lr", "lr_batch", "progress"])
def test_the_best_trials_are_among_the_shown(name: str, many: list[TrialView]) -> None:
    figure = BUILDERS[name](make_study(many), many)
    done = [trial for trial in many if trial.value is not None]
    best = {trial.number for trial in sorted(done, key=lambda trial: trial.value or 0.0)[:400]}
    drawn = {int(row[0]) for trace in figure["data"] if "customdata" in trace for row in decode(trace["customdata"])}
    assert best <= drawn


def test_a_user_text_is_escaped() -> None:
    trials = [make_trial(1)]
    study = make_study(trials, metric='<a href="javascript:alert(1)">x</a>')
    for name in ("loss_vs_lr", "lr_batch", "progress"):
        assert "<a href" not in json.dumps(BUILDERS[name](study, trials))


@pytest.mark.parametrize("name", ["loss_vs_lr", "lr_batch"])
def test_trials_that_a_log_axis_cannot_show_are_left_out(name: str) -> None:
    trials = [make_trial(1, params={"optimizer": "sgd", "lr": 0.0, "batch_size": 8}), make_trial(2, params={})]
    assert BUILDERS[name](make_study(trials), trials)["data"] == []
