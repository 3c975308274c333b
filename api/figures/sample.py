"""Which trials a figure shows: finished trials by rank, infeasible ones, and at most LIMIT points in total.

A quarter of the limit goes to the best trials, which are always shown; the rest is a stride through the remaining
trials in order of number, so that the sample covers the whole study and is the same every time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from api.figures.drawn import Drawn
from tuner.study.states import TrialState
from tuner.wire.views import StudyView

LIMIT = 2000
"""Points of one figure: few enough that SVG stays responsive and the page below 200 kB compressed."""

T = TypeVar("T")
NUMBER = attrgetter("number")


@dataclass(frozen=True)
class Shown:
    """The trials to draw. `finished` have a finite value and are ordered best first; `note` is "n of N" or empty."""

    finished: list[Drawn]
    infeasible: list[Drawn]
    note: str

    def of(self, optimizer: str) -> list[Drawn]:
        """Return the finished trials of one optimizer, best first."""
        return [trial for trial in self.finished if trial.optimizer == optimizer]

    def optimizers(self, study: StudyView) -> list[str]:
        """Return the optimizers that have trials to show, in the study's order."""
        present = {trial.optimizer for trial in [*self.finished, *self.infeasible]}
        known = [name for name in study.optimizers if name in present]
        return known + sorted(present - set(known))


def finite(value: float | None) -> bool:
    """Return whether the value exists and is finite."""
    return value is not None and -math.inf < value < math.inf


def best_first(study: StudyView, trials: Sequence[Drawn]) -> list[Drawn]:
    """Return the completed trials with a finite value, best first by the study's goal; ties go to the lower number."""
    costs = costs_of(study, trials)
    numbers = np.fromiter(map(NUMBER, trials), int, len(trials))
    order = np.lexsort((numbers, costs))[: int(np.isfinite(costs).sum())]
    return [trials[place] for place in order.tolist()]


def costs_of(study: StudyView, trials: Sequence[Drawn]) -> NDArray[np.float64]:
    """Return the values of trials, negated where larger is better; infinite where there is no finite one."""
    completed = TrialState.COMPLETED
    values = np.array([trial.value if trial.state is completed else None for trial in trials], dtype=float)
    return np.where(np.isfinite(values), values if study.goal == "minimize" else -values, np.inf)


def shown(study: StudyView, trials: Sequence[Drawn], *, needs: Sequence[str] = (), limit: int = LIMIT) -> Shown:
    """Choose the trials to draw: those with a positive number for every hyperparameter in `needs` (for log axes)."""
    usable = trials
    for name in needs:
        number = attrgetter(name)
        usable = [trial for trial in usable if 0 < number(trial) < math.inf]
    ranked = best_first(study, usable)
    bad = sorted((trial for trial in usable if trial.state is TrialState.INFEASIBLE), key=NUMBER)
    total = len(ranked) + len(bad)
    bad_room = min(len(bad), max(limit - len(ranked), limit // 5))
    bad_kept = stride(bad, bad_room)
    kept = thin(ranked, limit - len(bad_kept))
    count = len(kept) + len(bad_kept)
    return Shown(kept, bad_kept, of_total(count, total, "trials"))


def nothing(study: StudyView, trials: Sequence[Drawn], needs: str) -> str:
    """Say why there is nothing to draw, where a figure needs certain hyperparameters."""
    ended = any(finite(trial.value) or trial.state is TrialState.INFEASIBLE for trial in trials)
    return f"The trials of this study have no {needs}." if ended else "No trial has finished yet."


def thin(ranked: Sequence[Drawn], limit: int) -> list[Drawn]:
    """Keep the best trials (a quarter of the limit) and a stride through the rest; the order stays best first."""
    if len(ranked) <= limit:
        return list(ranked)
    best = limit // 4
    numbers = np.fromiter(map(NUMBER, ranked[best:]), int, len(ranked) - best)
    by_number = np.argsort(numbers) + best
    chosen = np.sort(by_number[stride(range(len(by_number)), limit - best)])
    return [*ranked[:best], *(ranked[place] for place in chosen.tolist())]


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
