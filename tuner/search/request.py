"""A request for configurations of one family, and what its sampler is told.

The request contains everything that the response depends on. `indexes` count the family's trials; each gets its own
seed from hash(study seed, family, index), so a proposal depends neither on parallelism (random, quasirandom) nor on
server restarts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuner.study.hyperparameter import Scalar
from tuner.study.space import Choices, Domain, Fixed, Range


@dataclass(frozen=True)
class Observation:
    """An earlier trial. `value` is None while it runs and for infeasible trials."""

    params: dict[str, Scalar]
    value: float | None
    feasible: bool = True

    @property
    def pending(self) -> bool:
        """Whether the trial is still running."""
        return self.value is None and self.feasible

    def digest(self, number: int) -> int:
        """Hash the observation and its trial's number into 128 bits.

        A history's digest is the exclusive or of its observations': it does not depend on the order of telling.
        """
        data = json.dumps([number, self.params, self.value, self.feasible], sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(data, digest_size=16).digest(), "big")


@dataclass(frozen=True)
class Search:
    """What stays the same while one family of a study is searched."""

    method: str
    seed: int
    family: str
    domains: dict[str, Domain]
    minimize: bool
    startup: int
    study: int = 0
    """The study's id. It keeps the histories of equal searches apart; no proposal depends on it."""

    def seed_of(self, index: int) -> int:
        """Return the 64-bit seed of one proposal."""
        return derive_seed(self.seed, self.family, index)


@dataclass(frozen=True)
class AskRequest:
    """A request for one configuration per index of a family, after a history by trial number."""

    search: Search
    indexes: list[int]
    history: Mapping[int, Observation]


def derive_seed(seed: int, family: str, index: int) -> int:
    """Hash (study seed, family, index) into 64 bits; fixed-width numbers keep different inputs distinct."""
    text = family.encode()
    data = seed.to_bytes(8, "big") + len(text).to_bytes(2, "big") + text + index.to_bytes(8, "big")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def to_json(search: Search) -> dict[str, Any]:
    """Turn a search into JSON values."""
    data = asdict(search)
    data["domains"] = {name: {"kind": type(d).__name__, **asdict(d)} for name, d in search.domains.items()}
    return data


def from_json(data: dict[str, Any]) -> Search:
    """Read back what `to_json` wrote."""
    kinds: dict[str, Any] = {"Fixed": Fixed, "Choices": Choices, "Range": Range}
    domains = {}
    for name, fields in data["domains"].items():
        values = {k: tuple(v) if k == "values" else v for k, v in fields.items() if k != "kind"}
        domains[name] = kinds[fields["kind"]](**values)
    return Search(**{**data, "domains": domains})
