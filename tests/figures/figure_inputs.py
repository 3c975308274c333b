"""Wire values for figure tests: a synthetic study of any size, the same on every call.

The numbers have the shape of real results (a valley in the learning rate, divergence above it, noisy curves) but are
made by formulas: nothing here is a measurement.
"""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from api.figures import NoisePoint
from tuner.study.states import StudyState, TrialState
from tuner.wire.views import BatchAdvice, BatchAdviceList, BatchRange, Curve, NoiseView, StudyView, TrialView

OPTIMIZERS = ["sgd", "momentum", "nesterov", "adamw", "muon"]
CENTRE = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "adamw": 0.003, "muon": 0.01}
START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_trial(number: int, **changes: Any) -> TrialView:
    """Return a completed trial."""
    optimizer = OPTIMIZERS[number % 5]
    draw = random.Random(number)
    batch = 2 ** draw.randint(3, 8)
    offset = draw.uniform(-2.2, 2.2)
    fields: dict[str, Any] = {
        "study": "demo",
        "number": number,
        "state": TrialState.COMPLETED,
        "optimizer": optimizer,
        "params": {
            "optimizer": optimizer,
            "lr": CENTRE[optimizer] * 10**offset,
            "batch_size": batch,
            "schedule": draw.choice(["constant", "cosine", "wsd"]),
            "weight_decay": 10 ** draw.uniform(-4, 0),
        },
        "seed": 0,
        "value": 0.08 + 0.15 * offset**2 + 0.03 * draw.random(),
        "step": 20000 // batch,
        "examples": 20000,
        "total_steps": 20000 // batch,
        "total_examples": 20000,
        "attempt": 1,
        "worker": "worker-1",
        "created_at": START,
        "started_at": START + timedelta(seconds=number),
        "finished_at": START + timedelta(seconds=number + 9),
    }
    if offset > 1.7:
        fields |= {"state": TrialState.INFEASIBLE, "value": None, "reason": "diverged", "examples": 640}
    return TrialView(**{**fields, **changes})


def make_trials(count: int) -> list[TrialView]:
    """Return the first `count` trials."""
    return [make_trial(number) for number in range(count)]


def make_study(trials: list[TrialView], **changes: Any) -> StudyView:
    """Return the study that these trials belong to; its best trial is the lowest value."""
    counts: dict[TrialState, int] = {}
    for trial in trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    done = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    fields: dict[str, Any] = {
        "id": 1,
        "name": "demo",
        "title": "Which optimizer trains the digits best?",
        "state": StudyState.RUNNING,
        "workload": "digits-mlp",
        "metric": "valid_loss",
        "goal": "minimize",
        "method": "tpe",
        "optimizers": OPTIMIZERS,
        "swept": {name: ["lr", "batch_size", "schedule", "weight_decay"] for name in OPTIMIZERS},
        "run_cap": max(64, len(trials)),
        "parallel": 16,
        "examples_per_trial": 20000,
        "counts": counts,
        "examples_done": sum(trial.examples for trial in trials),
        "best": min(done, key=lambda trial: trial.value or 0.0) if done else None,
        "revision": len(trials),
        "created_at": START,
        "started_at": START,
    }
    return StudyView(**{**fields, **changes})


def make_curve(trial: TrialView, points: int = 60, **changes: Any) -> Curve:
    """Return a falling curve that ends near the trial's value."""
    draw = random.Random(trial.number)
    end = trial.value if trial.value is not None else 20.0
    examples = [(i + 1) * trial.total_examples // points for i in range(points)]
    value = [end + (2.3 - end) * math.exp(-6 * e / trial.total_examples) * draw.uniform(0.85, 1.15) for e in examples]
    fields: dict[str, Any] = {
        "study": "demo",
        "number": trial.number,
        "metric": "valid_loss",
        "metrics": ["valid_loss", "train_loss"],
        "step": [e // 8 for e in examples],
        "examples": examples,
        "value": value,
    }
    return Curve(**{**fields, **changes})


def make_noise(trials: list[TrialView], points: int = 40) -> list[NoisePoint]:
    """Return a rising noise scale for each trial; its first quarter has no upper bound."""
    trace = []
    for trial in trials:
        draw = random.Random(trial.number)
        for i in range(points):
            value = (6 + 90 * (i / points) ** 1.5) * draw.uniform(0.85, 1.2)
            bounded = i >= points // 4
            high = value * 1.7 if bounded else math.inf
            trace.append(
                NoisePoint(
                    trial.optimizer, trial.number, (i + 1) * 20000 // points, value, value * 0.6, high, bounded,
                    int(trial.params["batch_size"]),
                )
            )  # fmt: skip
    return trace


def make_advice() -> BatchAdviceList:
    """Return advice of every kind: a bounded interval, an open one, and too little data."""
    known = BatchAdvice(
        study="demo",
        optimizer="adamw",
        grade="C",
        grade_meaning="From the noise scale at three or more learning rates, corrected to the tuned one.",
        trial=3,
        noise_scale=NoiseView(value=61.0, low=48.0, high=83.0, bounded=True, steps=900),
        critical_batch=70.0,
        interval=(22.0, 260.0),
        cheapest=BatchRange(low=8, high=8),
        balanced=BatchRange(low=32, high=128),
        lr="From batch size 32 to 128, multiply the learning rate by 1.4 to 4.",
        notes=["Momentum and Adam average gradients, so their useful batch size is smaller than the noise scale."],
        next_experiment="Repeat the tuned trial at batch size 128 with two more seeds.",
    )
    unbounded = known.model_copy(
        update={"optimizer": "sgd", "grade": "D", "interval": (30.0, math.inf), "critical_batch": None, "trial": 5}
    )
    nothing = BatchAdvice(study="demo", optimizer="muon", grade="none", grade_meaning="Not enough data.")
    return BatchAdviceList(study="demo", items=[known, unbounded, nothing])
