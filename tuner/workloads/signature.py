"""What a workload's factory takes, read from its signature: for the registry's checks, and for the server to know."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from tuner.workloads.value import PerTrial

_KINDS: dict[object, str] = {int: "whole", float: "number", bool: "flag", str: "text"}


def describe_parameters(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return `parameters` and `more` of the message `WorkloadInfo`, as JSON values."""
    signature = inspect.signature(factory).parameters.values()
    hints = _hints(factory)
    return {
        "parameters": [
            {
                "name": parameter.name,
                **_taken(hints.get(parameter.name)),
                "required": parameter.default is parameter.empty,
                "value": is_value(hints.get(parameter.name)),
            }
            for parameter in signature
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ],
        "more": any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature),
    }


def values_of(factory: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the parameters that are annotated `tuner.Value`."""
    return frozenset(name for name, hint in _hints(factory).items() if is_value(hint))


def is_value(hint: object) -> bool:
    """Whether an annotation is `tuner.Value`."""
    return any(isinstance(mark, PerTrial) for mark in getattr(hint, "__metadata__", ()))


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations; one that names what exists for type checkers only hides none of the others."""
    whole = inspect.unwrap(factory)
    return {
        name: _resolved(annotation, getattr(whole, "__globals__", {}))
        for name, annotation in inspect.get_annotations(whole).items()
    }


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    def one() -> None: ...

    one.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(one, scope, include_extras=True)["it"]
    except Exception:  # whatever the name of a missing thing leads to
        return annotation


def _taken(hint: object) -> dict[str, Any]:
    """Return the kind of an annotation, and its choices; an optional one is what it is when it is given."""
    if is_value(hint):
        return {"takes": "number"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        given = [one for one in typing.get_args(hint) if one is not types.NoneType]
        return _taken(given[0]) if len(given) == 1 else {"takes": "anything"}
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        return {"takes": "choice", "choices": list(choices)} if _are_text(choices) else {"takes": "anything"}
    return {"takes": _KINDS.get(hint, "anything") if isinstance(hint, type) else "anything"}


def _are_text(choices: tuple[object, ...]) -> bool:
    return all(isinstance(choice, str) for choice in choices)
