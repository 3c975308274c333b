"""Human-readable output of `tuner probe`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from tuner.probe.bench import LeftOut
from tuner.probe.choice import NEAR, Cell, Choice
from tuner.terminal.console import console, messages
from tuner.terminal.tables import plain_table

MIB = 2**20
WHOLE = (
    "The loss depends on which examples share a batch, so a study trains it in whole batches, each batch size in a "
    "stack of its own: this is for batch size {}. Probe the others with --micro-batch."
)


@dataclass
class Measured:
    """A probe's results. `compared` maps micro-batch to examples per second, if batch sizes were given.

    `whole`: the workload's loss depends on which examples share a batch, so that every micro-batch is a whole one.
    """

    results: list[Cell | LeftOut]
    choice: Choice
    micro_batch: int
    file: str
    compared: dict[int, float] = field(default_factory=dict)
    whole: bool = False

    @property
    def left_out(self) -> list[LeftOut]:
        """The stacks that were not built."""
        return [item for item in self.results if isinstance(item, LeftOut)]

    @property
    def best_micro_batch(self) -> int:
        """The smallest micro-batch that is nearly as fast as the fastest: it measures the noise best."""
        most = max(self.compared.values())
        return min(size for size, rate in self.compared.items() if rate >= NEAR * most)


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """Show the latest measurement while measuring continues."""
    with messages().status("measuring") as status:
        yield lambda text: status.update(f"measured {text}")


def show(found: Measured) -> None:
    """Print the tables and the choice."""
    out, best = console(), found.choice.best
    out.print(_table(found))
    where = f"{best.processes} {'process' if best.processes == 1 else 'processes'} of {best.threads} threads"
    out.print(f"choice: {where}, {best.path}, width {best.width}; stored in {found.file}")
    if found.whole:
        out.print(Text(WHOLE.format(found.micro_batch)))
    if found.compared:
        out.print(_micro_batches(found))
    if found.compared and not found.whole:
        out.print(
            f"micro_batch: {found.best_micro_batch}   # for the study document; the default is {found.micro_batch}"
        )


def _table(found: Measured) -> Table:
    names = ("processes", "threads", "width", "path", "tick ms", "trial-ticks/s", "MiB each", "")
    table = plain_table(*names, right=("processes", "threads", "width", "tick ms", "trial-ticks/s", "MiB each"))
    best = found.choice.best
    for one in found.results:
        speed, mark = ("", ""), "does not fit"
        if isinstance(one, Cell):
            speed, mark = (f"{1e3 * one.tick_s:.3f}", f"{one.rate:,.0f}"), "<- choice" if one == best else ""
        size = "" if one.bytes is None else f"{one.bytes / MIB:,.1f}"
        table.add_row(str(one.processes), str(one.threads), str(one.width), one.path, *speed, size, mark)
    return table


def _micro_batches(found: Measured) -> Table:
    name = "batch size" if found.whole else "micro-batch"
    table = plain_table(name, "examples/s", "", right=(name, "examples/s"))
    for size, rate in found.compared.items():
        best = not found.whole and size == found.best_micro_batch
        table.add_row(str(size), f"{rate:,.0f}", "<- best" if best else "")
    return table
