"""Dispatch of searches to methods: the only module that knows all of them."""

from collections.abc import Sequence
from typing import Protocol

from tuner.search.request import AskRequest, Observation, Search
from tuner.study.hyperparameter import Scalar


class Sampler(Protocol):
    """Proposes configurations of one family.

    A proposal is a pure function of the search, the index and the observations held, however they came to be held.
    """

    def tell(self, number: int, observation: Observation) -> None:
        """Hold an observation of the trial with this number, in place of an earlier one."""

    def forget(self, number: int) -> None:
        """Hold none of the trial with this number."""

    def propose(self, indexes: Sequence[int]) -> list[dict[str, Scalar]]:
        """Return the values of the swept hyperparameters, one mapping per index."""


class Even:
    """A sampler that learns nothing: each proposal follows from its index."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def tell(self, number: int, observation: Observation) -> None:
        """Learn nothing."""

    def forget(self, number: int) -> None:
        """Have nothing to forget."""

    def propose(self, indexes: Sequence[int]) -> list[dict[str, Scalar]]:
        """Return one configuration per index."""
        # Each method imports what it needs: scipy and optuna take seconds to load.
        if not self._search.domains:
            return [{} for _ in indexes]
        if self._search.method == "random":
            from tuner.search import independent

            return [independent.propose(self._search, index) for index in indexes]
        from tuner.search import quasirandom

        return [quasirandom.propose(self._search, index) for index in indexes]


def sampler_of(search: Search) -> Sampler:
    """Return a sampler that holds no observation yet."""
    if search.method == "tpe" and search.domains:
        from tuner.search.tpe import Tpe

        return Tpe(search)
    return Even(search)


def propose(request: AskRequest) -> list[dict[str, Scalar]]:
    """Return the values of the swept hyperparameters, one mapping per index, by a sampler of their own."""
    sampler = sampler_of(request.search)
    for number, observation in request.history.items():
        sampler.tell(number, observation)
    return sampler.propose(request.indexes)
