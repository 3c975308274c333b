"""What each figure shows: known inputs against the numbers that must be drawn."""

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from figure_inputs import START, make_advice, make_curve, make_noise, make_study, make_trial, make_trials

from api.figures import NoisePoint, batch_advice, curves, loss_vs_lr, lr_batch, noise, progress
from api.figures.encode import decode
from tuner.study.states import TrialState
from tuner.wire.views import TrialView


def named(figure: dict[str, Any], name: str) -> dict[str, Any]:
    found = [trace for trace in figure["data"] if trace.get("name") == name and isinstance(trace["x"], dict)]
    assert found, [trace.get("name") for trace in figure["data"]]
    return found[0]


def three(goal: str) -> tuple[Any, list[TrialView]]:
    """Return trials that finish in the order 2, 0, 3, 1 with values 3, 1, diverged, 2."""
    values = {0: 1.0, 1: 2.0, 2: 3.0}
    ends = {2: 1, 0: 2, 3: 3, 1: 4}
    params = {"optimizer": "sgd", "lr": 0.1, "batch_size": 8}
    trials = [
        make_trial(
            n,
            optimizer="sgd",
            params=params | {"lr": 0.1 * (n + 1)},
            state=TrialState.COMPLETED if n in values else TrialState.INFEASIBLE,
            value=values.get(n),
            reason=None if n in values else "diverged",
            finished_at=START + timedelta(seconds=ends[n]),
        )
        for n in range(4)
    ]
    return make_study(trials, goal=goal), trials


@pytest.mark.parametrize(("goal", "steps"), [("minimize", [3, 1, 1]), ("maximize", [3, 3])])
def test_progress_follows_the_order_of_finishing_and_the_goal(goal: str, steps: list[float]) -> None:
    figure = progress(*three(goal))
    line = named(figure, "best so far")
    assert decode(line["y"]).tolist() == steps
    assert decode(line["x"]).tolist() == ([1, 2, 4] if goal == "minimize" else [1, 4])
    cross = named(figure, "diverged")
    assert decode(cross["x"]).tolist() == [3]
    assert decode(cross["y"])[0] == pytest.approx(0.975 if goal == "minimize" else 0.025)


def test_progress_leaves_replicates_out() -> None:
    study, trials = three("minimize")
    lucky = make_trial(9, value=0.01, replicate=1, state=TrialState.COMPLETED)
    assert progress(study, [*trials, lucky]) == progress(study, trials)


@pytest.mark.parametrize(("goal", "best"), [("minimize", 0.1), ("maximize", 0.3)])
def test_the_star_stands_on_the_best_learning_rate(goal: str, best: float) -> None:
    figure = loss_vs_lr(*three(goal))
    star = next(trace for trace in figure["data"] if trace["marker"]["symbol"] == "star")
    assert decode(star["x"])[0] == pytest.approx(best)
    assert figure["layout"]["xaxis"]["type"] == "log"
    assert figure["layout"]["yaxis"].get("type") == ("log" if goal == "minimize" else None)


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_the_bright_end_of_the_scale_is_the_better_one(goal: str) -> None:
    figure = lr_batch(*three(goal))
    scale = figure["layout"]["coloraxis"]
    best = math.log10(1.0) if goal == "minimize" else 3.0
    assert (scale["cmin"] if goal == "minimize" else scale["cmax"]) == pytest.approx(best)
    assert scale["reversescale"] == (goal == "minimize")  # Cividis is bright at its upper end
    assert decode(named(figure, "infeasible")["y"]).tolist() == [8]


def test_curves_have_one_gap_between_trials_and_one_heavy_line() -> None:
    study, trials = three("minimize")
    figure = curves(study, trials, [make_curve(trial, points=10) for trial in trials])
    thin = named(figure, "sgd")
    y = decode(thin["y"])
    assert int(np.isnan(y).sum()) == len(trials) - 1
    assert len(y) == 10 * len(trials) + len(trials) - 1
    heavy = named(figure, "best: trial 0")
    assert set(decode(heavy["customdata"])[:, 0]) == {0}
    assert heavy["line"]["width"] > thin["line"]["width"]


def test_curves_are_limited_to_a_hundred_of_a_hundred_points() -> None:
    trials = make_trials(300)
    figure = curves(make_study(trials), trials, [make_curve(trial, points=300) for trial in trials])
    lines = [trace for trace in figure["data"] if not trace["name"].startswith("best")]
    drawn = {int(n) for trace in lines for n in decode(trace["customdata"])[:, 0]}
    assert len(drawn) == 100
    assert sum(int(np.isfinite(decode(trace["y"])).sum()) for trace in lines) == 100 * 100
    assert figure["layout"]["annotations"][-1]["text"] == "100 of 300 trials"
    best = min((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)
    assert best.number in drawn


def test_curves_keep_their_first_and_last_point() -> None:
    trial = make_trial(1)
    curve = make_curve(trial, points=1000)
    figure = curves(make_study([trial]), [trial], [curve])
    x = decode(named(figure, trial.optimizer)["x"])
    assert (x[0], x[-1], len(x)) == (curve.examples[0], curve.examples[-1], 100)


def test_a_curve_that_blew_up_is_cut_where_it_did() -> None:
    trial = make_trial(1)
    curve = make_curve(trial, points=4, value=[2.0, 1.0, math.inf, math.nan])
    y = decode(named(curves(make_study([trial]), [trial], [curve]), trial.optimizer)["y"])
    assert y[:2].tolist() == [2.0, 1.0]
    assert np.isnan(y[2:]).all()


def test_noise_shows_bands_only_where_bounded_and_arrows_elsewhere() -> None:
    trial = make_trial(3)
    trace = [
        NoisePoint("adamw", 3, 100, math.nan, 5.0, math.inf, False, 16),
        NoisePoint("adamw", 3, 200, 20.0, 10.0, 40.0, True, 16),
        NoisePoint("adamw", 3, 300, 25.0, 12.0, 50.0, True, 16),
        NoisePoint("adamw", 3, 400, -3.0, 0.4, math.inf, False, 16),
    ]
    figure = noise(make_study([trial]), trace)
    band = next(t for t in figure["data"] if t.get("fill") == "toself")
    assert decode(band["x"]).tolist() == [200, 300, 300, 200]
    assert decode(band["y"]).tolist() == [10, 12, 50, 40]
    arrows = next(t for t in figure["data"] if t["mode"] == "markers")
    assert decode(arrows["y"]).tolist() == [5]  # a bound below one example says nothing
    value = named(figure, "best: adamw, trial 3")
    assert np.array_equal(decode(value["y"]), [math.nan, 20, 25], equal_nan=True)
    batch = next(t for t in figure["data"] if t.get("line", {}).get("dash") == "dot")
    assert set(decode(batch["y"])) == {16}
    assert figure["layout"]["yaxis"]["type"] == "log"


def test_noise_puts_the_best_trial_first() -> None:
    trials = make_trials(8)
    study = make_study(trials)
    figure = noise(study, make_noise([*trials[:5], study.best] if study.best else []))
    names = [trace["name"] for trace in figure["data"] if trace["showlegend"]]
    assert study.best is not None
    assert names[0] == f"best: {study.best.optimizer}, trial {study.best.number}"
    assert len(names) == len({*range(5), study.best.number})


def test_batch_advice_draws_ranges_on_powers_of_two() -> None:
    advice = make_advice()
    figure = batch_advice(make_study([]), advice)
    layout = figure["layout"]
    assert layout["xaxis"]["ticktext"][:3] == ["8", "16", "32"]
    assert [text.split("<br>")[1] for text in layout["yaxis"]["ticktext"]] == ["grade C", "grade D", "not enough data"]
    balanced = decode(named(figure, "balanced")["x"])
    low, high = balanced[:2]
    assert 32 / 2**0.5 < low < 32 and 128 < high < 128 * 2**0.5
    assert layout["height"] == 340
    crowd = advice.model_copy(update={"items": advice.items * 5})
    assert batch_advice(make_study([]), crowd)["layout"]["height"] >= 40 * 15
    arrow = named(figure, "no upper bound")
    assert len(decode(arrow["x"])) == 1
    assert math.log10(decode(arrow["x"])[0]) < layout["xaxis"]["range"][1]
