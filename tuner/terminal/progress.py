"""Follows a study in the terminal: its progress, speed, best result so far, and remaining time.

On a terminal two to four lines are redrawn in place; elsewhere a plain line is written when trials have ended, at most
once per `LINE_EVERY_S`, so that a log stays short.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.study.states import StudyState, TrialState
from tuner.terminal.formats import configuration, count, duration, many, number, percent
from tuner.terminal.tables import finished, state
from tuner.wire.views import StudyView

LINE_EVERY_S = 2.0
WINDOW_S = 20.0


class Pace:
    """Measures how fast a study goes while it is watched.

    `share` counts examples as well as ended trials, because stacked trials end in waves. The remaining time is
    estimated from the last `WINDOW_S` seconds, because a study's pace varies. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()  # (time, share): the last WINDOW_S and one before
        self._start: tuple[float, int] | None = None  # (time, ended trials) when progress began
        self._ended = 0

    @staticmethod
    def share(view: StudyView) -> float:
        """The share of the study that is done, in [0, 1]."""
        trials = max(view.run_cap, 1)
        examples = view.examples_done / (trials * view.examples_per_trial) if view.examples_per_trial else 0.0
        return min(1.0, max(finished(view) / trials, examples))

    def note(self, view: StudyView) -> None:
        """Record a new view."""
        now, share = self._clock(), self.share(view)
        if len(self._seen) == 1 and self._seen[0][1] == share:
            self._seen.clear()  # time spent waiting for a worker does not count
        if not self._seen:
            self._start = (now, finished(view))
        self._seen.append((now, share))
        while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_S:
            self._seen.popleft()
        self._ended = finished(view)

    def trials_per_second(self) -> float | None:
        """Trials ended per second since progress began; None before any has ended."""
        if self._start is None or self._ended <= self._start[1]:
            return None
        return (self._ended - self._start[1]) / max(self._clock() - self._start[0], 1e-3)

    def remaining_s(self) -> float | None:
        """Remaining seconds at the current pace; None while unknown."""
        if len(self._seen) < 2:
            return None
        (first, before), (last, done) = self._seen[0], self._seen[-1]
        if done - before < 0.005:
            return None
        left = (last - first) * (1.0 - done) / (done - before)
        return max(0.0, left - (self._clock() - last))


class Progress:
    """Shows one study while it runs; a context manager. `url` is its dashboard page."""

    def __init__(self, out: Console, url: str, pace: Pace | None = None) -> None:
        self._out, self._url, self._pace = out, url, pace or Pace()
        self._view: StudyView | None = None
        self._away: str | None = None
        self._last_line: tuple[float, str] = (float("-inf"), "")
        self._live = Live(console=out, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._out.is_terminal:
            self._live.stop()
        if self._view is not None:
            self._write_line(last=True)

    def follow(self, views: Iterable[StudyView]) -> StudyView | None:
        """Show every view as it arrives; return the last one."""
        for view in views:
            self._view = view
            self._pace.note(view)
            self._write_line(last=False)
        return self._view

    def away(self, reason: str | None) -> None:
        """Show that the server is unreachable (a reason), or back (None); for `Client.watch(away=...)`."""
        if not self._out.is_terminal and (reason is None) != (self._away is None):
            text = "the server is back" if reason is None else f"{reason} (retrying)"
            self._out.print(Text(text), soft_wrap=True)
        self._away = reason

    def render(self) -> RenderableType:
        """Draw the lines for a terminal."""
        view = self._view
        if view is None:
            return Text("waiting for the server")
        bar = Table.grid(padding=(0, 1), expand=False)
        bar.add_row(
            Text(view.name, "bold"),
            state(view.state),
            ProgressBar(total=1.0, completed=self._pace.share(view), width=24),
        )
        lines: list[RenderableType] = [bar, Text(self._facts(view))]
        if speed := _speed(view):
            lines.append(Text(speed))
        if limits := budgets(view):
            lines.append(Text(limits))
        if view.best is not None:
            lines.append(Text(self._best(view)))
        lines.append(Text(self._url, "dim"))
        if self._away is not None:
            lines.append(Text(f"{self._away} (retrying)", "yellow"))
        elif view.notice:
            lines.append(Text(view.notice, "yellow"))
        return Group(*lines)

    def _write_line(self, last: bool) -> None:
        view = self._view
        if view is None or (self._out.is_terminal and not last):
            return
        text = f"{view.name} {view.state}: {self._facts(view)}"
        if speed := _speed(view):
            text += f"; {speed}"
        if limits := budgets(view):
            text += f"; {limits}"
        if view.best is not None:
            text += f"; {self._best(view)}"
        now = time.monotonic()
        key = f"{finished(view)} {view.state} {view.notice}"
        if key != self._last_line[1] and (last or now - self._last_line[0] >= LINE_EVERY_S):
            self._last_line = (now, key)
            self._out.print(Text(text), soft_wrap=True)

    def _facts(self, view: StudyView) -> str:
        facts = [f"{finished(view)}/{many(view.run_cap, 'trial')}"]
        for shown in (TrialState.RUNNING, TrialState.FAILED, TrialState.INFEASIBLE):
            if amount := view.counts.get(shown, 0):
                facts.append(f"{amount} {shown.value}")
        if view.slot_utilisation is not None:
            facts.append(f"{percent(view.slot_utilisation)} of the slots used")
        if rate := self._pace.trials_per_second():
            facts.append(f"{number(rate, 3)} trials/s")
        remaining = self._pace.remaining_s()
        if remaining is not None and view.state == StudyState.RUNNING:
            facts.append(f"{duration(remaining)} left")
        if view.reason:
            facts.append(view.reason)
        if view.notice and not self._out.is_terminal:
            facts.append(view.notice)
        return ", ".join(facts)

    def _best(self, view: StudyView) -> str:
        best = view.best
        if best is None:
            return ""
        config = configuration(best.params, view.swept.get(best.optimizer))
        return f"best {view.metric} {number(best.value)} by trial {best.number}: {best.optimizer} {config}"


def budgets(view: StudyView) -> str:
    """Say how much of each budget is used, other than of trials; empty where none is set."""
    parts = []
    for budget in view.budgets:
        if budget.limit is None or budget.name in ("runs", "failed"):
            continue
        shown = {"s": duration, "examples": count}.get(budget.unit, number)
        unit = f" {budget.unit}" if budget.unit == "h" else ""
        parts.append(f"{shown(budget.used)} of {shown(budget.limit)}{unit} ({budget.name})")
    return f"budget: {', '.join(parts)}" if parts else ""


def _speed(view: StudyView) -> str:
    """Describe how fast a study is trained, and by which programs; empty while nothing is."""
    parts = [f"{count(view.examples_per_second)} examples/s"] if view.examples_per_second else []
    for program in view.running_programs[:1]:
        times = f"{program.devices} x " if program.devices > 1 else ""
        parts.append(f"{times}{program.words or program.fingerprint}")
    if len(view.running_programs) > 1:
        parts.append(f"and {many(len(view.running_programs) - 1, 'other program')}")
    return ", ".join(parts)
