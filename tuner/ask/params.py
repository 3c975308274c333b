"""A trial's configuration: a mapping whose names are attributes too. Immutable."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from tuner.study.hyperparameter import Scalar


class Params(Mapping[str, Scalar]):
    """`params["lr"]`, `params.lr`, `dict(params)` and `f(**params)` all work."""

    __slots__ = ("_values",)
    _values: Mapping[str, Scalar]

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        object.__setattr__(self, "_values", MappingProxyType(dict(values)))

    def __getitem__(self, name: str) -> Scalar:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:  # a user's own names, of types that only the user knows
        if not name.startswith("_") and name in self._values:
            return self._values[name]
        raise AttributeError(f"the configuration has no {name!r}; it has {', '.join(self._values)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a configuration is fixed; {name!r} cannot be set")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Params({dict(self._values)!r})"

    def __reduce__(self) -> tuple[type["Params"], tuple[dict[str, Scalar]]]:
        return Params, (dict(self._values),)
