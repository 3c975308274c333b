"""Which stack of a device a trial enters: one that is held, or a new one, if there is room for it.

A trial enters the first stack of its kind that takes it. Where there is none, one is opened, unless as many trials of
its key train already as were found to be fastest, or the memory is not there: then it waits. Invariants:

- A stack that ran out of memory beside others trains alone next time; one that did alone is halved.
- The first trial of an own workload trains alone until it was evaluated: it makes the mistakes that all would make,
  whatever the shapes of their models.
- Where something better was compiled, a stack admits no more trials and goes when it is empty. What fails while it is
  looked for costs nothing but the better program.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from tuner import workloads
from tuner.engine import Ended, Event
from tuner.worker.channel import Json
from tuner.worker.device.loading import Address, Loaded
from tuner.worker.device.stack_choice import Chosen, Given, Kind, StackChoice, rule_of
from tuner.worker.device.stacks import MOST, Held, Stacks

log = logging.getLogger(__name__)

NEWS_S = 1.0
"""How often to see whether a better program has been compiled."""
PREPARED = 1000
"""Trials for which a stack is built without work: enough to be worth it."""


class Placing:
    """Opens, replaces and drops the stacks of one device."""

    def __init__(self, device: str, given: Given, stacks: Stacks, *, keep_weights: bool) -> None:
        self.choice = StackChoice(device, given)
        self.expects_news = False
        """Whether a program is being compiled, so that `prepare` may soon find something to do."""
        self._device = torch.device(device)
        self._stacks = stacks
        self._keep_weights = keep_weights
        self._proven: set[Address] = set()
        """Workloads of which a trial was evaluated: more than one may train at once."""
        self._widths: dict[str, int] = {}
        """Stack key -> how many of its trials may train here at once."""
        self._alone: set[Kind] = set()
        """Kinds that ran out of memory beside others."""
        self._news_at = 0.0

    def place(self, head: Json, loaded: Loaded, backlog: Sequence[Json], announce: Callable[[], None]) -> Held | None:
        """Return the stack that a trial of the backlog enters now; None if it has to wait.

        `announce` is called before a stack is built: more of its trials come meanwhile.

        Raises:
            OtherProgram: the trial's study is pinned to a program that this device does not run.
            NotLoaded: the model does not load here.
            Whatever else the workload's code raises.
        """
        if not self._is_proven(loaded) and self._stacks.trials_of(loaded.family):
            return None
        kind = self.choice.kind(head, loaded)
        places = [held for held in self._stacks if held.kind == kind and held.takes(head["params"])]
        held = max(places, key=lambda held: held.rules is not None, default=None)
        if held is None:
            held = self._open(head, loaded, kind, backlog, announce)
        if held is not None:  # a spare one is not announced yet
            self._widths.setdefault(held.key, held.chosen.width if self._is_proven(loaded) else 1)
        return held

    def saw(self, held: Held, events: Iterable[Event]) -> bool:
        """Note what a stack's trials have shown; return whether more trials of its workload may train now."""
        if held.loaded.family in self._proven or not any(map(_proves, events)):
            return False
        self._proven.add(held.loaded.family)
        self._widths |= {one.key: one.chosen.width for one in self._stacks if one.loaded.family == held.loaded.family}
        return True

    def make_smaller(self, kind: Kind, width: int) -> bool:
        """Let a kind train alone next time, or in half the width; return whether it is as small as can be."""
        if self._stacks.busy and kind not in self._alone:
            self._alone.add(kind)
            return False
        while self._stacks.drop_spare():
            pass
        if width == 1:
            return True
        self.choice.narrow(kind, width)
        self._widths[kind.stack] = width // 2
        return False

    def widths(self, backlog: Sequence[Json]) -> dict[str, int]:
        """Return how many trials of each stack key may train here, of the keys that train or wait.

        Spare stacks are not named: a study's stacks would be dealt to every device that had them once, each half empty.
        """
        keys = {held.key for held in self._stacks if held.busy} | {item["stack"] for item in backlog}
        self._widths = {key: width for key, width in self._widths.items() if key in keys}
        return dict(self._widths)

    def look_for_news(self, backlog: Sequence[Json]) -> bool:
        """Have compiled what pays; close the stacks for which something better has been. Return whether any was."""
        now = time.monotonic()
        if now < self._news_at:
            return False
        self._news_at, closed = now + NEWS_S, False
        news = self.choice.news()
        for held in list(self._stacks):
            if held.chosen.path == "compiled" or held.closing:
                continue
            if not held.trials:
                if news:
                    self._stacks.drop(held)  # it is as easily built again, and perhaps there is a better one
                continue
            waiting = [item for item in backlog if item["stack"] == held.key]
            latest = [*held.trials.values(), *waiting][-1]
            if latest["reproducible"]:
                continue
            if news and self._better(latest, held, len(held.trials)) is not None:
                held.closing = closed = True
                continue
            rules = held.seen | {rule_of(item["params"]): item["params"] for item in waiting}
            self.choice.compile_what_pays(latest, held.loaded, held.chosen, rules)
        self.expects_news = self.choice.compiling
        return closed

    def prepare(self) -> None:
        """Without work: build the stack whose program has just been compiled, so that the next trials find it."""
        news = self.choice.news()
        for held in sorted(self._stacks, key=lambda held: -self.choice.spent_s(held.kind)):
            head = held.latest
            if held.chosen.path == "compiled" or head is None or head["reproducible"]:
                continue
            chosen = self._better({**head, "remaining": PREPARED}, held, 0) if news else None
            if chosen is None:
                self.choice.compile_what_pays(head, held.loaded, held.chosen, held.seen)
            elif (better := self._built(head, held, chosen)) is not None:
                better.seen = held.seen
                self._stacks.drop(held)
        self.expects_news = self.choice.compiling

    def _is_proven(self, loaded: Loaded) -> bool:
        """Whether a trial of a workload has been evaluated here, or it is one of ours."""
        return loaded.family in self._proven or workloads.is_built_in(loaded.workload)

    def _open(
        self, head: Json, loaded: Loaded, kind: Kind, backlog: Sequence[Json], announce: Callable[[], None]
    ) -> Held | None:
        """Open a stack for a trial; None if that has to wait."""
        params = head["params"]
        chosen = self.choice.choose(head, loaded, self._stacks.slots(kind.stack, params))
        self._widths[kind.stack] = chosen.width if self._is_proven(loaded) else 1
        while self._stacks.slots(kind.stack, params) >= chosen.width:
            if not self._stacks.drop_spare(kind.stack):
                return None
        if not self._has_room(head, loaded, kind, chosen):
            return None
        width = chosen.width
        if kind.batch == "whole" and chosen.path != "compiled" and not head["reproducible"]:
            same = [item for item in backlog if item["stack"] == kind.stack]
            waiting = sum(self.choice.kind(item, loaded) == kind for item in same)
            width = min(width - self._stacks.slots(kind.stack, params), waiting)  # of each batch size come fewer trials
        announce()
        return self._hold(head, loaded, kind, chosen, width)

    def _hold(self, head: Json, loaded: Loaded, kind: Kind, chosen: Chosen, width: int) -> Held:
        stack = self.choice.build(head, loaded, chosen, width)
        stack.keep_weights = self._keep_weights
        held = Held(kind, loaded, chosen, stack, chosen.rules if stack.path == "compiled" else None)
        self._stacks.add(held)
        return held

    def _has_room(self, head: Json, loaded: Loaded, kind: Kind, chosen: Chosen) -> bool:
        """Make room for one more stack by dropping spare ones; False if what trains leaves none."""
        others = [held.kind for held in self._stacks if held.busy]
        if others and (kind in self._alone or self._alone & set(others)):
            return False
        while len(self._stacks) >= MOST:
            if not self._stacks.drop_spare():
                return False
        needed = self.choice.bytes(head, loaded, chosen)
        while len(self._stacks) and (room := self.choice.room()) is not None and needed > room:
            if not self._stacks.drop_spare():
                return False
        return True

    def _better(self, head: Json, held: Held, begun: int) -> Chosen | None:
        """Return the compiled stack that further trials should enter instead; None if there is none, or it fails."""
        try:
            chosen = self.choice.choose(head, held.loaded, begun)
        except Exception as error:  # the workload's own code may run here, and no trial asked for it
            _log_failure(error)
            return None
        return chosen if chosen.path == "compiled" else None

    def _built(self, head: Json, held: Held, chosen: Chosen) -> Held | None:
        try:
            return self._hold(head, held.loaded, held.kind, chosen, chosen.width)
        except Exception as error:  # the workload's own code may run here, and no trial asked for it
            _log_failure(error)
            return None


def _log_failure(error: Exception) -> None:
    log.warning("a compiled stack was not built: %r", error, extra={"action": "prepare"})


def _proves(event: Event) -> bool:
    """Whether an event shows that a workload can be trained and evaluated."""
    if isinstance(event, Ended):
        return event.outcome == "finished"
    return any(name != "train_loss" for name in event.metrics)
