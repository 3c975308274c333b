"""Which program trains some trials fastest, from what has been measured: pure functions on numbers.

The stack is never wider than the trials that can be in it at once ask for: an empty slot costs as much as a taken one.
Widths between two measured ones come from a ladder, since every width is another program to compile.
"""

from dataclasses import dataclass

from tuner.probe.choice import NEAR, WIDTHS, Choice, Compiled

UNCOMPILED = ("loop", "eager")
CLEARLY = 1.1
"""A path replaces the usual one if it is this many times as fast."""
GAIN = 1.1
"""A wider stack that is not this many times as fast as a narrower one ends the search."""
SEVERAL = 16
"""Width at which compiling is tried where uncompiled stacks gain nothing by being wide."""


@dataclass(frozen=True)
class Plan:
    """A stack to build: its path and width, and the trial-ticks per second expected of it."""

    path: str
    width: int
    rate: float


def rung(trials: int) -> int:
    """Return the smallest width of the ladder 1, 2, 3, 4, 6, 8, 12, 16, 24 ... that holds so many trials."""
    power = 1 << max(0, trials - 1).bit_length()  # the power of two at or above
    return 3 * power // 4 if power >= 4 and trials <= 3 * power // 4 else power


def widths_to_measure(most: int) -> list[int]:
    """Return the measured widths that stacks of at most this width need."""
    return sorted({width for width in WIDTHS if width <= most} | ({most} if most < WIDTHS[-1] else set()))


def uncompiled(known: Choice, trials: int) -> Plan | None:
    """Return the narrowest of the nearly fastest stacks for so many trials at once; None if nothing was measured."""
    most = rung(trials)
    plans = [
        Plan(path, width, min(width, trials) / tick_s)
        for path in UNCOMPILED
        for width in _widths(known, path, most)
        if (tick_s := known.tick_s(path, width)) is not None
    ]
    best = max((plan.rate for plan in plans), default=0.0)
    return min((p for p in plans if p.rate >= NEAR * best), key=lambda p: (p.width, -p.rate), default=None)


def settled(known: Choice) -> bool:
    """Whether a wider uncompiled stack than the widest measured one need not be tried."""
    rates: dict[int, float] = {}
    for cell in known.cells:
        if cell.path in UNCOMPILED:
            rates[cell.width] = max(rates.get(cell.width, 0.0), cell.width / cell.tick_s)
    *narrower, widest = sorted(rates)
    return bool(narrower) and (widest >= WIDTHS[-1] or rates[widest] < GAIN * max(rates[width] for width in narrower))


def at_width(known: Choice, width: int) -> str:
    """Return the uncompiled path for a width that the user has set; `auto` is eager where the model can be stacked."""
    eager, loop = known.tick_s("eager", width), known.tick_s("loop", width)
    return "loop" if loop is not None and (eager is None or loop * CLEARLY < eager) else "auto"


def compiled(known: Choice, trials: int, base: Plan, width: int | None = None) -> tuple[Plan, Compiled] | None:
    """Return the compiled stack that is clearly faster than `base`, if one is known; `width` if only that will do."""
    found = []
    for one in known.compiled:
        tick_s = known.tick_s("compiled", one.width)
        if tick_s is None or one.width > rung(trials) or width not in (None, one.width):
            continue
        found.append((Plan("compiled", one.width, min(one.width, trials) / tick_s), one))
    found = [item for item in found if item[0].rate >= CLEARLY * base.rate]
    best = max((plan.rate for plan, _ in found), default=0.0)
    return min((item for item in found if item[0].rate >= NEAR * best), key=lambda item: item[0].width, default=None)


def worth_compiling(base: Plan, trials: int) -> int:
    """Return the width at which to try the compiled path."""
    return base.width if base.width >= WIDTHS[1] else min(rung(trials), SEVERAL)


def _widths(known: Choice, path: str, most: int) -> list[int]:
    measured = [cell.width for cell in known.cells if cell.path == path]
    return sorted({w for w in measured if w <= most} | ({most} if measured and most <= max(measured) else set()))
