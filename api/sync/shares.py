"""Shares of device time: who gets the next slot of a stack, and whose stack a device opens next.

A worker divides the time of a device between the studies on it by their priorities, and the time of a stack goes to its
slots alike. So two things are decided here, by arithmetic on who holds what now and with no clock:

- Within a stack every study gets as many whole slots as its priority is worth among those that have trials to run. What
  is left over goes to the study that was served least: by the examples leased to it, over its priority. No study lags
  or leads by more than a trial, so one that comes back (or is new) has no credit to be paid before the others.
- A device that can open a stack opens one for the study with the smallest share of all devices over its priority. A
  device that is busy does so only where that brings the shares closer: two studies with a device each stay there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

Place = tuple[int, str]
"""A worker's id and the name of one of its devices."""


@dataclass
class Claim:
    """A study that has trials for a stack: how many slots it has there, and what it was served (see `Study.served`)."""

    study: int
    priority: float
    slots: int
    served: float
    cost: float
    """Of its next trial, over its priority."""


def ranked(claims: Sequence[Claim], slots: int) -> list[Claim]:
    """Order the studies by who gets the next of `slots` slots of a stack; `served` is brought up to the others'."""
    weight = sum(claim.priority for claim in claims)
    lead, most = max(claim.served for claim in claims), max(claim.cost for claim in claims)

    def place(claim: Claim) -> tuple[bool, float, int]:
        short = claim.slots + 1 <= slots * claim.priority / weight + 1e-9
        return not short, claim.slots / claim.priority if short else claim.served, claim.study

    for claim in claims:
        claim.served = max(claim.served, lead - most)
    return sorted(claims, key=place)


class Shares:
    """Each study's share of device time, over its priority: on a device, 1 over the sum of the priorities there."""

    def __init__(self, holders: Iterable[tuple[Place, int]], priorities: Mapping[int, float]) -> None:
        """`holders` names the studies with trials on each device; `priorities` are theirs and the candidates'."""
        self._priorities = priorities
        self._on: dict[Place, set[int]] = {}
        for place, study in holders:
            self.add(place, study)

    def add(self, place: Place, study: int) -> None:
        """Note that a study has trials on a device."""
        self._on.setdefault(place, set()).add(study)

    def of(self, study: int) -> float:
        """Return a study's share over its priority; 0 while it has no device."""
        return sum(1 / self._weight(here) for here in self._on.values() if study in here)

    def on(self, place: Place, study: int) -> bool:
        """Whether a study has trials on a device."""
        return study in self._on.get(place, set())

    def evens(self, place: Place, study: int) -> bool:
        """Whether the largest share on a device, the study's included, falls when the study comes to it."""
        here = self._on.get(place, set())
        if not here or study in here:
            return True
        after = self.of(study) + 1 / (self._weight(here) + self._priorities[study])
        return after < max(map(self.of, here))

    def _weight(self, studies: Collection[int]) -> float:
        return sum(self._priorities[study] for study in studies)
