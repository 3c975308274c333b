"""Keeping the sampler process in step with histories by what changed in them.

- The server (`Feed`) remembers what the process holds of each search and sends the difference; it can always send
  everything. The process (`Fed`) holds samplers between requests, and nothing that it could not be sent again.
- Every message carries the digest of the history after it, worked out at both ends from their own copy. A process that
  holds nothing of the search, or does not arrive at that history, answers `lost`, and is then sent everything. So a
  proposal is made from the request's history or not at all.
- Both ends keep a bounded number of searches, those used last.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from tuner.search.methods import Sampler, sampler_of
from tuner.search.request import AskRequest, Observation, Search, from_json, to_json

KEPT = 64
"""Searches held at each end; the process needs some 2 MB for each."""


@dataclass
class _Held:
    """The server's copy of what the process holds of one search."""

    seen: dict[int, Observation] = field(default_factory=dict)
    digests: dict[int, int] = field(default_factory=dict)
    digest: int = 0

    def move_to(self, request: AskRequest) -> tuple[list[list[Any]], list[int]]:
        """Take over the request's history; return what is told, and the numbers of what is gone."""
        told: list[list[Any]] = []
        gone = [number for number in self.seen if number not in request.history]
        for number in gone:
            del self.seen[number]
            self.digest ^= self.digests.pop(number)
        for number, new in request.history.items():
            old = self.seen.get(number)
            if old is new or old == new:
                continue
            self.seen[number] = new
            self.digest ^= self.digests.get(number, 0)
            self.digests[number] = new.digest(number)
            self.digest ^= self.digests[number]
            told.append([number, new.params, new.value, new.feasible])
        return told, gone


class Feed:
    """The server's end: makes the messages for one sampler process. Not thread-safe."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def message(self, request: AskRequest) -> str:
        """Return the line that asks for the request's configurations; `lost` must follow unless it is answered."""
        search = json.dumps(to_json(request.search))
        whole = search not in self._held
        held = self._held[search] = _Held() if whole else self._held.pop(search)  # the newest at the end
        told, gone = held.move_to(request)
        while len(self._held) > KEPT:
            self._held.popitem(last=False)
        message = {
            "search": search,
            "indexes": request.indexes,
            "whole": whole,
            "told": told,
            "gone": gone,
            "digest": held.digest,
        }
        return json.dumps(message) + "\n"

    def lost(self, search: Search) -> None:
        """Note that the process may not hold what it was sent of a search: it is sent everything next."""
        self._held.pop(json.dumps(to_json(search)), None)


@dataclass
class _Kept:
    """One search in the process."""

    sampler: Sampler
    digests: dict[int, int] = field(default_factory=dict)
    digest: int = 0

    def move(self, told: list[list[Any]], gone: list[int]) -> None:
        for number in gone:
            self.sampler.forget(number)
            self.digest ^= self.digests.pop(number, 0)
        for number, *values in told:
            observation = Observation(*values)
            self.sampler.tell(number, observation)
            self.digest ^= self.digests.get(number, 0)
            self.digests[number] = observation.digest(number)
            self.digest ^= self.digests[number]


class Fed:
    """The process's end: answers messages. Not thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def answer(self, line: str) -> dict[str, Any]:
        """Return `{"configurations": [...]}`, or `{"lost": true}` when everything is needed first.

        Raises:
            Exception: whatever the sampler raises; the search is then forgotten.
        """
        message = json.loads(line)
        name: str = message["search"]
        kept = self._kept.pop(name, None)  # put back when all has gone well
        if message["whole"]:
            kept = _Kept(sampler_of(from_json(json.loads(name))))
        if kept is None:
            return {"lost": True}
        kept.move(message["told"], message["gone"])
        if kept.digest != message["digest"]:
            return {"lost": True}
        configurations = kept.sampler.propose(message["indexes"])
        self._kept[name] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {"configurations": configurations}
