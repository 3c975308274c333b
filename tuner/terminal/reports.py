"""Results in words: the winner with its snippet, the batch advice, the catalogue.

A result is shown with its interval and its grade; if there is none, the output states that.
"""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tuner.terminal.formats import batch_range, count, interval, number, ordered
from tuner.terminal.tables import plain_table, state
from tuner.wire.failures import headline
from tuner.wire.views import (
    BatchAdvice,
    BatchAdviceList,
    Best,
    CatalogueView,
    HyperparameterView,
    NamedThing,
    NoiseView,
    OptimizerView,
    ScheduleView,
    TrialView,
)


def _pairs(rows: Sequence[tuple[str, str | Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), value if isinstance(value, Text) else Text(value))
    return Padding(table, (0, 0, 0, 2))


def best_report(best: Best, metric: str, swept: dict[str, list[str]]) -> RenderableType:
    """Show the winner: its value with interval and grade, and its configuration (searched values in bold)."""
    trial = best.trial
    head = Text.assemble(
        (trial.optimizer, "bold green"),
        f" reaches {metric} ",
        (number(trial.value), "bold"),
        f" (trial {trial.number})",
    )
    spread = interval(*best.interval) if best.interval else "none: one seed only"
    searched = swept.get(trial.optimizer, [])
    rows: list[tuple[str, str | Text]] = [
        ("over seeds", spread),
        ("evidence", f"{best.grade}: {best.evidence.removeprefix(f'Grade {best.grade}: ')}"),
    ]
    rows += [(n, Text(number(v), "bold" if n in searched else "")) for n, v in ordered(trial.params)]
    return Group(head, _pairs(rows))


def trial_report(trial: TrialView, metric: str, swept: dict[str, list[str]]) -> RenderableType:
    """Show one trial: how it ended, how far it came, and its configuration (searched values in bold)."""
    head = Text.assemble(f"trial {trial.number} of {trial.study}: ", (trial.optimizer, "bold"), " ", state(trial.state))
    if why := headline(trial.error or "") or trial.reason:
        head.append(f": {why}")
    searched = swept.get(trial.optimizer, [])
    rows: list[tuple[str, str | Text]] = [
        (metric, number(trial.value)),
        ("examples", _of(trial.examples, trial.total_examples)),
        ("steps", _of(trial.step, trial.total_steps)),
        ("attempts", str(trial.attempt) if trial.attempt else "not started"),
        ("worker", trial.worker or "-"),
        ("seed", str(trial.seed)),
    ]
    rows += [(n, Text(number(v), "bold" if n in searched else "")) for n, v in ordered(trial.params)]
    return Group(head, _pairs(rows))


def _of(done: int, total: int | None) -> str:
    """Say how far something is; how far it goes may be known to the trial's own code alone."""
    return count(done) if total is None else f"{count(done)} of {count(total)}"


def advice_report(advice: BatchAdviceList, only_first: bool = False) -> RenderableType:
    """Show the recommended batch sizes: a table of all optimizers, then the evidence of each (or only the winner's).

    Notes that apply to every optimizer are shown once, at the end.
    """
    if not advice.items:
        return Text("no batch advice yet: no trial has measured its gradient noise")
    details = advice.items[:1] if only_first else advice.items
    shared = [note for note in details[0].notes if all(note in item.notes for item in details)] if details[1:] else []
    parts: list[RenderableType] = [_advice_table(advice.items)]
    for item in details:
        parts += [Text(""), *_advice(item, shared)]
    if shared:
        parts += [Text(""), Text("all of them", "bold"), _pairs([("note", note) for note in shared])]
    if len(details) < len(advice.items):
        parts += [Text(""), Text(f"for the other optimizers: tuner advice {advice.study}", "dim")]
    return Group(*parts)


def _advice_table(items: Sequence[BatchAdvice]) -> RenderableType:
    ranges = ("balanced", "cheapest", "fastest", "critical batch")
    table = plain_table("optimizer", *ranges, "grade", fold=ranges)
    for item in items:
        table.add_row(
            *(Text(item.optimizer), batch_range(item.balanced), batch_range(item.cheapest)),
            *(batch_range(item.fastest), _critical(item), item.grade),
        )
    return table


def _critical(item: BatchAdvice) -> str:
    bounds = f" ({interval(*item.interval, digits=3)})" if item.interval else ""
    return f"{number(item.critical_batch, 3)}{bounds}"


def _noise(noise: NoiseView) -> str:
    bounds = interval(noise.low, noise.high, 3)
    # The unbiased estimate of |G|^2 can be zero or negative; then only the lower end of the ratio is meaningful.
    value = number(noise.value, 3) if noise.bounded and noise.value > 0 else "not resolved"
    return f"{value}, interval {bounds}, over {count(noise.steps)} steps"


def _advice(item: BatchAdvice, shared: Sequence[str]) -> list[RenderableType]:
    source = f" (read from trial {item.trial})" if item.trial is not None else ""
    head = Text.assemble((item.optimizer, "bold"), source)
    rows: list[tuple[str, str | Text]] = []
    if item.grade == "none" and item.headline:
        rows.append(("none, since", item.headline))
    if item.balanced is not None:
        rows.append(("balanced", Text(batch_range(item.balanced), "bold")))
    if item.cheapest is not None:
        rows.append(("cheapest", f"{batch_range(item.cheapest)} (fewest examples)"))
    if item.fastest is not None:
        rows.append(("fastest", f"{batch_range(item.fastest)} (fewest seconds)"))
    if item.critical_batch is not None:
        rows.append(("critical batch", _critical(item)))
    if item.noise_scale is not None:
        rows.append(("noise scale", _noise(item.noise_scale)))
    rows.append(("grade", f"{item.grade}: {item.grade_meaning.removeprefix(f'Grade {item.grade}: ')}"))
    if item.lr:
        rows.append(("learning rate", item.lr))
    rows += [("note", note) for note in item.notes if note not in shared]
    if item.next_experiment:
        rows.append(("next experiment", item.next_experiment))
    return [head, _pairs(rows)]


def catalogue_overview(catalogue: CatalogueView) -> RenderableType:
    """List everything that a study document may name."""
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        ("optimizers", [(o.name, o.summary) for o in catalogue.optimizers]),
        ("schedules", [(s.name, s.summary) for s in catalogue.schedules]),
        ("methods", [(m.name, m.description) for m in catalogue.methods]),
        ("workloads", [(w.name, w.description) for w in catalogue.workloads]),
    ]
    parts: list[RenderableType] = []
    for title, rows in groups:
        parts += [Text(title, "bold"), _pairs([(name, what) for name, what in rows]), Text("")]
    parts.append(Text("details: tuner catalogue NAME", "dim"))
    return Group(*parts)


def catalogue_entries(catalogue: CatalogueView, name: str) -> list[OptimizerView | ScheduleView | NamedThing]:
    """Find the catalogue entries with a name; an optimizer and a schedule may share one."""
    things: list[OptimizerView | ScheduleView | NamedThing] = []
    for group in (catalogue.optimizers, catalogue.schedules, catalogue.methods, catalogue.workloads):
        things += group
    return [thing for thing in things if thing.name == name]


def catalogue_entry(thing: OptimizerView | ScheduleView | NamedThing) -> RenderableType:
    """Show one rule or schedule with formula, ranges and sources."""
    if isinstance(thing, NamedThing):
        return Group(Text(thing.name, "bold"), Padding(Text(thing.description), (0, 0, 0, 2)))
    head = Text.assemble((thing.name, "bold"), "  ", thing.summary)
    formula = Padding(Text(thing.formula.strip("\n")), (1, 0, 1, 2))
    parts: list[RenderableType] = [head, formula]
    if isinstance(thing, OptimizerView):
        rows: list[tuple[str, str | Text]] = [
            ("reference", thing.reference),
            ("state", f"{thing.memory or number(thing.state_per_parameter)} numbers per parameter"),
        ]
        if thing.needs_loss:
            rows.append(("evaluates", "the loss again inside a step: use large or full batches"))
        parts.append(_pairs(rows))
    own = thing.hyperparameters if isinstance(thing, OptimizerView) else thing.parameters
    for item in own:
        parts += [Text(""), *_hyperparameter(item)]
    return Group(*parts)


def _hyperparameter(item: HyperparameterView) -> Iterator[RenderableType]:
    yield Padding(Text.assemble((item.name, "bold"), "  ", item.description), (0, 0, 0, 2))
    rows: list[tuple[str, str | Text]] = [("default", number(item.default)), ("allowed", item.allowed)]
    if item.search:
        rows.append(("searched" if item.swept else "range if searched", item.search))
    if item.source:
        rows.append(("source", item.source))
    yield Padding(_pairs(rows), (0, 0, 0, 2))
