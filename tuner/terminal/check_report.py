"""Human-readable output of `tuner check` and `tuner workloads`."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tuner.probe.checkup import Report
from tuner.terminal.console import console, messages, print_traceback
from tuner.terminal.formats import count, many, number
from tuner.terminal.tables import plain_table

MIB = 2**20


@contextmanager
def waiting(name: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done; what the engine would log is in the report."""
    engine = logging.getLogger("tuner.engine")
    level = engine.level
    engine.setLevel(logging.ERROR)
    try:
        with messages().status(f"checking {name}") as status:
            yield lambda text: status.update(f"checking {name}: {text}")
    finally:
        engine.setLevel(level)


def show(report: Report) -> None:
    """Print one workload's report."""
    out = console()
    params = " ".join(f"{name}={number(value)}" for name, value in report.params.items())
    out.print(Text.assemble((report.workload, "bold"), f" {params}" if params else ""))
    rows = list(_rows(report))
    if rows:
        out.print(_pairs(rows))
    if report.roles:
        out.print(Padding(_roles(report), (1, 0, 1, 2)))
    for warning in report.warnings:
        out.print(_marked("warning", "yellow", warning))
    if report.fault is not None:
        show_fault(report.fault)
    elif not report.warnings:
        out.print(_marked("fine", "green", "trials of this workload can train."))


def show_fault(fault: str) -> None:
    """Print what ends every trial."""
    console().print(_marked("fault", "bold red", "every trial would fail with this:"))
    print_traceback(fault)


def show_known(known: Sequence[tuple[str, str, str]]) -> None:
    """Print workloads, each with its origin and description."""
    table = plain_table("workload", "from", "", fold=("workload", "from", ""))
    for name, origin, text in known:
        table.add_row(Text(name), Text(origin), Text(text))
    console().print(table)


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    if report.train_examples:
        examples = f"{count(report.train_examples)} training, {count(report.valid_examples)} validation examples"
        yield "data", examples
    if report.parameters:
        yield "trained", many(report.parameters, "parameter")
    for pattern, names in report.matches.items():
        yield "group", f"{pattern}: {', '.join(names) or 'no parameter'}"
    if report.path:
        yield "trials", _together(report)
    if report.memory:
        yield "batches", _batches(report)
    if report.metrics:
        values = ", ".join(f"{name} {number(value)}" for name, value in report.metrics.items())
        yield "metrics", f"{values} (initial weights)"
    if report.rules:
        yield "optimizers", ", ".join(f"{one.family} ({one.optimizer}) {_verdict(one.error)}" for one in report.rules)
    if report.alone_s is not None:
        yield "seconds", _seconds(report)
    if report.memory:
        sizes = ", ".join(f"{many(width, 'slot')} {size / MIB:,.1f} MiB" for width, size in report.memory.items())
        yield "memory", f"{sizes} (AdamW, at its peak)"


def _verdict(error: str | None) -> str:
    return "works" if error is None else "fails"


def _together(report: Report) -> str:
    if report.path != "loop":
        return "run together as one program"
    reason = report.why_not_stacked
    return "run one after another" + (f": {reason}" if reason else "")


def _batches(report: Report) -> str:
    if report.whole_batches:
        return "the loss depends on which examples share a batch: trials train in whole batches, without noise scale"
    return "every example counts by itself: trials of any batch size share a stack"


def _seconds(report: Report) -> str:
    text = f"{number(report.alone_s, 3)} per 1,000 examples of a trial alone"
    if report.stacked_s is None:
        return f"{text}; {report.stacked_width} together do not fit in memory"
    return f"{text}, {number(report.stacked_s, 3)} of each of {report.stacked_width} together"


def _pairs(rows: Sequence[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return Padding(table, (0, 0, 0, 2))


def _roles(report: Report) -> Table:
    """List parameters by role; names that differ in numbers only, and have one shape, share a line."""
    table = plain_table("role", "parameter", "shape", "layers above", "", fold=("parameter",))
    for role, members in report.roles.items():
        groups: dict[tuple[str, str], list[str]] = {}
        for name, sizes in members.items():
            groups.setdefault((re.sub(r"(?<![^.])\d+(?![^.])", "*", name), str(sizes)), []).append(name)
        for place, ((pattern, shape), names) in enumerate(groups.items()):
            shown, times = (pattern, f"x {len(names)}") if len(names) > 1 else (names[0], "")
            table.add_row(
                Text(role if place == 0 else ""), Text(shown), Text(shape), Text(_depth(report, names)), times
            )
    return table


def _depth(report: Report, names: Sequence[str]) -> str:
    """Say how many layers lie above some parameters, e.g. `0` or `1 to 12`."""
    found = sorted({report.depths[name] for name in names})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _marked(word: str, style: str, text: str) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(f"{word}:", style), Text(text))
    return table
