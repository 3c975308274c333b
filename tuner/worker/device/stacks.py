"""The stacks that a device process holds, and whose turn it is.

They take turns tick by tick. Device time goes to studies in proportion to their priorities, whatever their ticks cost;
a study that trains in several stacks divides its share equally among them. A stack that begins, or begins again, has no
claim on the time before. Stacks without trials stay, in case more of their kind come, until their memory is needed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from tuner.engine import Event, Stack
from tuner.engine.machine.allocator import give_back
from tuner.worker.channel import Json
from tuner.worker.device.announcer import Key
from tuner.worker.device.loading import Address, Loaded
from tuner.worker.device.stack_choice import Chosen, Kind, rule_of

MOST = 8
"""Stacks that are held at once."""


@dataclass
class Held:
    """One stack. `rules` are the ones whose updates are compiled for it; None: it takes any."""

    kind: Kind
    loaded: Loaded
    chosen: Chosen
    stack: Stack
    rules: frozenset[str] | None = None
    closing: bool = False
    """It admits no more trials, and goes when it is empty."""
    used_s: float = 0.0
    """Device time used, divided by the share that it had meanwhile."""
    trials: dict[object, Json] = field(default_factory=dict)
    """The assignments in it, by (trial, attempt)."""
    latest: Json | None = None
    """The last one that came."""
    seen: dict[str, Json] = field(default_factory=dict)
    """Parameters of a trial for each rule that has been in it."""

    @property
    def key(self) -> str:
        """The stack key of its trials."""
        return self.kind.stack

    @property
    def busy(self) -> bool:
        """Whether a tick has something to do or to report."""
        return self.stack.busy

    @property
    def studies(self) -> dict[int, float]:
        """The priorities of the studies in it."""
        return {item["study_id"]: item["priority"] for item in self.trials.values()}

    def fits(self, params: Json) -> bool:
        """Whether its program includes the rule of a trial with these parameters."""
        return self.rules is None or rule_of(params) in self.rules

    def takes(self, params: Json) -> bool:
        """Whether it may admit a trial with these parameters, and has a free slot."""
        return not self.closing and self.stack.free > 0 and self.fits(params)


class Stacks:
    """All stacks of one device. `clock` gives seconds."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._held: list[Held] = []
        self._places: dict[object, tuple[Held, int]] = {}
        """Where each trial is."""
        self._shares: dict[int, float] | None = None
        """By stack, until a trial comes or goes."""

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def busy(self) -> bool:
        """Whether any of them is."""
        return any(held.busy for held in self._held)

    @property
    def may_open(self) -> bool:
        """Whether there may be one more, spare ones being dropped for it."""
        return sum(held.busy for held in self._held) < MOST

    def with_trial(self, key: Key) -> tuple[Held, int] | None:
        """Return the stack that a trial was admitted to, and its slot, until its end was told."""
        return self._places.get(key)

    def trials_of(self, family: Address) -> int:
        """Count the trials of a workload, models of all shapes, in all stacks."""
        return sum(len(held.trials) for held in self._held if held.loaded.family == family)

    def slots(self, stack_key: str, params: Json) -> int:
        """Count the slots for a trial in the stacks of its key; of those that admit no more, the taken ones."""
        own = [held for held in self._held if held.key == stack_key and held.fits(params)]
        return sum(held.stack.width - (held.stack.free if held.closing else 0) for held in own)

    def add(self, held: Held) -> None:
        """Hold a new stack; the caller has seen to it that there may be one."""
        self._held.append(held)
        self._shares = None

    def admitted(self, held: Held, assignment: Json, slot: int) -> None:
        """Note that a trial is in a slot of a stack."""
        if not held.trials:
            waiting = [other.used_s for other in self._held if other is not held and other.trials]
            held.used_s = max(held.used_s, min(waiting, default=0.0))
        key = assignment["trial"], assignment["attempt"]
        held.trials[key] = held.latest = assignment
        self._places[key] = held, slot
        held.seen[rule_of(assignment["params"])] = assignment["params"]
        self._shares = None

    def next(self) -> Held | None:
        """Return the stack whose turn it is, None when there is nothing to do."""
        return min((held for held in self._held if held.busy), key=lambda held: held.used_s, default=None)

    def tick(self, held: Held) -> tuple[list[Event], float]:
        """Run one tick of a stack; return its events, and the device time with which the stack was charged."""
        held.stack.claim()
        begin = self._clock()
        events = held.stack.tick()
        seconds = self._clock() - begin
        held.used_s += seconds / self._share(held)
        return events, seconds

    def left(self, key: object) -> None:
        """Note that a trial is in no stack any more."""
        found = self._places.pop(key, None)
        if found is not None:
            del found[0].trials[key]
            self._shares = None

    def drop(self, held: Held) -> None:
        """Give a stack's memory back now."""
        held.stack.close()
        self._held.remove(held)
        for key in held.trials:
            del self._places[key]
        self._shares = None
        give_back(self._device)

    def drop_spare(self, stack_key: str | None = None) -> bool:
        """Drop the stack without trials that has been used least, of a key or of any; return whether there was one."""
        spare = [held for held in self._held if not held.busy and stack_key in (None, held.key)]
        if spare:
            self.drop(min(spare, key=lambda held: held.used_s))
        return bool(spare)

    def _share(self, held: Held) -> float:
        """Return the sum of the priorities of its studies, each divided by the number of stacks that it trains in."""
        if self._shares is None:
            places = Counter(study for other in self._held for study in other.studies)
            self._shares = {
                id(other): sum(priority / places[study] for study, priority in other.studies.items())
                for other in self._held
            }
        return self._shares.get(id(held)) or 1.0
