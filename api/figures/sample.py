"""Which trials a figure shows: finished trials by rank, infeasible ones, and at most LIMIT points in total.

A quarter of the limit goes to the best trials, which are always shown; the rest is a stride through the remaining
trials in order of number, so that the sample covers the whole study and is the same every time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tuner.study.states import TrialState
from tuner.wire.views import StudyView, TrialView

LIMIT = 2000
"""Points of one figure: few enough that SVG stays responsive and the page below 200 kB compressed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """The trials to draw. `finished` have a finite value and are ordered best first; `note` is "n of N" or empty."""

    finished: list[TrialView]
    infeasible: list[TrialView]
    note: str

    def of(self, optimizer: str) -> list[TrialView]:
        """Return the finished trials of one optimizer, best first."""
        return [trial for trial in self.finished if trial.optimizer == optimizer]

    def optimizers(self, study: StudyView) -> list[str]:
        """Return the optimizers that have trials to show, in the study's order."""
        present = {trial.optimizer for trial in [*self.finished, *self.infeasible]}
        known = [name for name in study.optimizers if name in present]
        return known + sorted(present - set(known))


def finite(value: float | None) -> bool:
    """Return whether the value exists and is finite."""
    return value is not None and math.isfinite(value)


def best_first(study: StudyView, trials: Sequence[TrialView]) -> list[TrialView]:
    """Return the completed trials with a finite value, best first by the study's goal; ties go to the lower number."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETED and finite(trial.value)]
    sign = 1.0 if study.goal == "minimize" else -1.0
    return sorted(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def shown(study: StudyView, trials: Sequence[TrialView], *, needs: Sequence[str] = (), limit: int = LIMIT) -> Shown:
    """Choose the trials to draw: those with a positive number for every hyperparameter in `needs` (for log axes)."""
    usable = [trial for trial in trials if all(_positive(trial, name) for name in needs)]
    ranked = best_first(study, usable)
    bad = sorted((t for t in usable if t.state == TrialState.INFEASIBLE), key=lambda trial: trial.number)
    total = len(ranked) + len(bad)
    bad_room = min(len(bad), max(limit - len(ranked), limit // 5))
    bad_kept = stride(bad, bad_room)
    kept = thin(ranked, limit - len(bad_kept))
    count = len(kept) + len(bad_kept)
    return Shown(kept, bad_kept, of_total(count, total, "trials"))


def thin(ranked: Sequence[TrialView], limit: int) -> list[TrialView]:
    """Keep the best trials (a quarter of the limit) and a stride through the rest; the order stays best first."""
    if len(ranked) <= limit:
        return list(ranked)
    best, rest = ranked[: limit // 4], ranked[limit // 4 :]
    by_number = sorted(rest, key=lambda trial: trial.number)
    chosen = {trial.number for trial in stride(by_number, limit - len(best))}
    return [*best, *(trial for trial in rest if trial.number in chosen)]


def stride(items: Sequence[T], limit: int) -> list[T]:
    """Keep at most `limit` items, evenly spaced, including the first and the last."""
    if len(items) <= limit:
        return list(items)
    if limit <= 1:
        return list(items[-1:]) if limit == 1 else []
    return [items[i * (len(items) - 1) // (limit - 1)] for i in range(limit)]


def of_total(count: int, total: int, noun: str) -> str:
    """Return "n of N", or an empty string when everything is shown."""
    return f"{count:,} of {total:,} {noun}" if count < total else ""


def lr_of(trial: TrialView) -> float:
    """Return the trial's learning rate; NaN if it has none."""
    return _number(trial, "lr")


def batch_of(trial: TrialView) -> int:
    """Return the trial's batch size in examples; 0 if it has none."""
    value = _number(trial, "batch_size")
    return int(value) if math.isfinite(value) else 0


def _number(trial: TrialView, name: str) -> float:
    value = trial.params.get(name)
    return math.nan if value is None or isinstance(value, str | bool) else float(value)


def _positive(trial: TrialView, name: str) -> bool:
    value = _number(trial, name)
    return math.isfinite(value) and value > 0
