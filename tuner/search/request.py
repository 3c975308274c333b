"""A request for configurations of one family, and its response.

The request contains everything that the response depends on. `indexes` count the family's trials; each gets its own
seed from hash(study seed, family, index), so a proposal depends neither on parallelism (random, quasirandom) nor on
server restarts.
"""

import hashlib
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


@dataclass(frozen=True)
class AskRequest:
    """A request for one configuration per index of a family."""

    method: str
    seed: int
    family: str
    domains: dict[str, Domain]
    indexes: list[int]
    history: list[Observation]
    minimize: bool
    startup: int

    def seed_of(self, index: int) -> int:
        """Return the 64-bit seed of one proposal."""
        return derive_seed(self.seed, self.family, index)


def derive_seed(seed: int, family: str, index: int) -> int:
    """Hash (study seed, family, index) into 64 bits; fixed-width numbers keep different inputs distinct."""
    text = family.encode()
    data = seed.to_bytes(8, "big") + len(text).to_bytes(2, "big") + text + index.to_bytes(8, "big")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def to_json(request: AskRequest) -> dict[str, Any]:
    """Turn a request into JSON values."""
    data = asdict(request)
    data["domains"] = {name: {"kind": type(d).__name__, **asdict(d)} for name, d in request.domains.items()}
    return data


def from_json(data: dict[str, Any]) -> AskRequest:
    """Read back what `to_json` wrote."""
    kinds: dict[str, Any] = {"Fixed": Fixed, "Choices": Choices, "Range": Range}
    domains = {}
    for name, fields in data["domains"].items():
        values = {k: tuple(v) if k == "values" else v for k, v in fields.items() if k != "kind"}
        domains[name] = kinds[fields["kind"]](**values)
    history = [Observation(**item) for item in data["history"]]
    return AskRequest(**{**data, "domains": domains, "history": history})
