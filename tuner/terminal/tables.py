"""Lists as tables: studies, trials, the leaderboard, workers.

Text from the server is placed in cells as `Text`, so that a name in brackets is never read as markup.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner.study.states import TERMINAL
from tuner.terminal.formats import configuration, count, duration, many, number, percent
from tuner.wire.failures import headline
from tuner.wire.views import Leaderboard, StudyView, TrialView, WorkerView

STATE_STYLES = {
    "running": "cyan",
    "busy": "cyan",
    "completed": "green",
    "idle": "green",
    "stopped": "yellow",
    "paused": "yellow",
    "pruned": "yellow",
    "infeasible": "magenta",
    "failed": "red",
    "lost": "red",
}


def state(name: str) -> Text:
    """Colour a state by its name."""
    return Text(name, STATE_STYLES.get(name, ""))


NARROWEST = 8
"""Characters that a column keeps which may wrap: narrower, its words would stand letter by letter below each other."""


def plain_table(*columns: str, right: Sequence[str] = (), fold: Sequence[str] = ()) -> Table:
    """Create a table with a rule under its header; `right` columns are right-aligned, `fold` columns may wrap.

    Where the terminal is too narrow, what is cut ends in an ellipsis.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        foldable = name in fold
        table.add_column(
            Text(name),
            justify="right" if name in right else "left",
            no_wrap=not foldable,
            overflow="fold" if foldable else "ellipsis",
            min_width=NARROWEST if foldable else None,
        )
    return table


def finished(view: StudyView) -> int:
    """Count the trials that have ended."""
    return sum(amount for name, amount in view.counts.items() if name in TERMINAL)


def studies_table(views: Sequence[StudyView]) -> RenderableType:
    """Show studies, one per line."""
    if not views:
        return Text("no studies; submit one with 'tuner submit FILE', or try 'tuner demo'")
    weighted = any(view.priority != 1 for view in views)
    table = plain_table(
        *("study", "state", "trials", "slots", "best", "metric", "workload", *["priority"] * weighted),
        right=("trials", "slots", "best", "priority"),
        fold=("study",),
    )
    for view in views:
        best = number(view.best.value) if view.best else "-"
        trials = f"{finished(view)}/{view.run_cap}"
        cells = [Text(view.name), state(view.state), Text(trials), Text(percent(view.slot_utilisation)), Text(best)]
        cells += [Text(view.metric, overflow="fold"), Text(view.workload)]
        table.add_row(*cells, *([Text(number(view.priority))] if weighted else []))
    return table


def trials_table(trials: Sequence[TrialView], swept: dict[str, list[str]], metric: str, total: int) -> RenderableType:
    """Show trials with the hyperparameters that the study varied; `total` is their total number."""
    if not trials:
        return Text("no such trials")
    table = plain_table(
        *("#", "state", metric, "optimizer", "configuration", "done"),
        right=("#", metric, "done"),
        fold=("state", "configuration"),
    )
    for trial in trials:
        whole = trial.total_examples
        done = f"{trial.examples / whole:.0%}" if whole else count(trial.examples or trial.step)
        config = configuration(trial.params, swept.get(trial.optimizer))
        label = state(trial.state)
        if why := headline(trial.error or "") or trial.reason:
            label.append(f": {why}")
        table.add_row(str(trial.number), label, number(trial.value), Text(trial.optimizer), Text(config), done)
    return Group(table, Text(f"{len(trials)} of {many(total, 'trial')}", "dim"))


def leaderboard_table(board: Leaderboard, swept: dict[str, list[str]]) -> RenderableType:
    """Rank the optimizers, with the grade of the ranking and its evidence."""
    table = plain_table(
        *("#", "optimizer", board.metric, "median", "done", "configuration"),
        right=("#", board.metric, "median", "done"),
        fold=("configuration",),
    )
    for row in board.rows:
        best = row.best
        config = configuration(best.params, swept.get(row.optimizer)) if best else ""
        done = f"{row.completed}/{row.trials}"
        if row.infeasible:
            config += f"{' ' if config else ''}({row.infeasible} infeasible)"
        table.add_row(
            *(str(row.rank), Text(row.optimizer, "bold" if row.rank == 1 else "")),
            *(number(best.value if best else None), number(row.median), done, Text(config)),
        )
    return Group(table, Text(f"evidence {board.grade}: {board.evidence.removeprefix(f'Grade {board.grade}: ')}"))


def workers_table(workers: Sequence[WorkerView], now: datetime | None = None) -> RenderableType:
    """Show workers; `now` (UTC) is the time from which ages are computed."""
    if not workers:
        return Text("no workers; start one with 'tuner worker'")
    now = now or datetime.now(UTC)
    table = plain_table(
        "id", "worker", "state", "trials", "devices", "last seen", right=("id", "trials"), fold=("devices",)
    )
    for worker in workers:
        devices = ", ".join(d.device if d.width is None else f"{d.device} x {d.width}" for d in worker.devices)
        age = duration(max(0.0, (now - worker.last_seen).total_seconds()))
        table.add_row(
            *(str(worker.id), Text(worker.name), state(worker.state), str(worker.held)),
            *(Text(devices), f"{age} ago"),
        )
    return table
