"""Counts slot-ticks: how many each study used, of those that it could have used.

In every tick each slot of the stack counts once. It is *busy* for the study whose trial is in it. An empty slot is
*offered* to a study as far as that study had trials for it: at most `most` at a time on this device, from those in
slots, those assigned and waiting here, and those that no worker has begun yet (the server's `Demand`). Compaction does
not exist, so a study that wants fewer slots than the stack has is only counted for those that it wants.

A stack that runs empty makes no ticks; the time until the next message is counted in ticks of the mean length, because
slots that idle between two ticks would else look used. Counts only ever grow.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[int, int]
"""(trial, attempt)."""

NEWS_EVERY_S = 0.5
SMOOTHING = 0.05
"""Weight of the latest tick in the mean length of a tick."""


@dataclass(frozen=True)
class Wish:
    """What a study could put on this device (see the wire's `Demand`)."""

    stack: str
    most: int
    more: int


class SlotUse:
    """Counters by study id."""

    def __init__(self) -> None:
        self.changed = True
        """Whether attempts came or went, or demand changed, since `occupy`."""
        self._told: dict[int, tuple[int, int]] = {}
        self._told_s = 0.0
        self._study: dict[Key, int] = {}
        self._wishes: dict[int, Wish] = {}
        self._busy: Counter[int] = Counter()
        self._offered: Counter[int] = Counter()
        self._rates: list[tuple[int, int, int]] = []
        self._tick_s: float | None = None

    def assign(self, key: Key, study: int) -> None:
        """Note whose trial an attempt is."""
        self.changed = True
        self._study[key] = study

    def forget(self, key: Key) -> None:
        """Note that an attempt has left this device."""
        self.changed = True
        self._study.pop(key, None)

    def demand(self, wishes: dict[int, Wish]) -> None:
        """Take in what studies could put here; those that are not named want nothing."""
        self._wishes = dict(wishes)
        self.changed = True

    def occupy(self, stack: str | None, width: int, seated: Iterable[Key], waiting: Iterable[Key]) -> None:
        """Say which attempts are in the slots from now on, and which wait here for this very stack."""
        self.changed = False
        inside, outside = (
            Counter(self._study[key] for key in keys if key in self._study) for keys in (seated, waiting)
        )
        idle = width - inside.total()
        self._rates = []
        wishes = {study: wish for study, wish in self._wishes.items() if wish.stack == stack}
        for study in inside.keys() | wishes.keys():
            wish, busy = wishes.get(study), inside[study]
            known = 0 if wish is None else min(wish.most, busy + outside[study] + wish.more)
            self._rates.append((study, busy, busy + min(idle, max(0, known - busy))))

    def tick(self, seconds: float) -> None:
        """Count one tick, which took so long."""
        self._tick_s = seconds if self._tick_s is None else self._tick_s + SMOOTHING * (seconds - self._tick_s)
        self._count(1)

    def slept(self, seconds: float) -> None:
        """Count the ticks that would have fitted into a time without any."""
        if self._tick_s:
            self._count(int(seconds / self._tick_s))

    def _count(self, ticks: int) -> None:
        for study, busy, offered in self._rates:
            self._busy[study] += ticks * busy
            self._offered[study] += ticks * offered

    def news(self, *, now_s: float, busy: bool) -> list[dict[str, int]]:
        """Return what changed since the last news, at most every half second while trials run (`busy`)."""
        if busy and now_s - self._told_s < NEWS_EVERY_S:
            return []
        totals = self.totals()
        rows = [
            {"study": study, "busy": used, "offered": offered}
            for study, (used, offered) in totals.items()
            if self._told.get(study) != (used, offered)
        ]
        self._told_s, self._told = now_s, totals
        return rows

    def totals(self) -> dict[int, tuple[int, int]]:
        """Return (busy, offered) slot-ticks of each study since the start."""
        return {study: (self._busy[study], offered) for study, offered in self._offered.items()}
