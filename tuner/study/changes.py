"""What of a study document may change once the study has begun, and merging changes into a document.

What trials were trained with stays what it is: who wants something else clones the study. A key that is given as it is
already is no change, so the same request may come twice.
"""

from collections.abc import Mapping
from typing import Any

from tuner.errors import Fault, InvalidInput
from tuner.study.check import read_field, unknown_key
from tuner.study.spec import StudySpec

CHANGEABLE = ("title", "note", "tags", "webhook", "run_cap", "parallel", "priority", "budget")
FIXED: Mapping[str, str] = {
    "name": "others know the study by it",
    "enqueue": "its trials exist; enqueue more by a request of its own",
    "seed": "proposals and trials follow from it",
    "method": "proposals were made by it",
    "retry": "attempts were counted against it",
}
"""Why a key cannot change, where it is not that trials were trained with it."""
TRAINED = "trials have trained on it"
BUDGET: Mapping[str, str] = {"examples_per_trial": TRAINED}
"""Parts of the budget that cannot change."""


def changed(spec: StudySpec, changes: Mapping[str, Any]) -> StudySpec:
    """Return the document with changes; only what they name changes.

    Raises:
        InvalidInput: every key that is unknown, cannot change or has an illegal value.
    """
    before = spec.model_dump(mode="json")
    faults: list[Fault] = []
    fields: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in before:
            faults.append(Fault(str(key), unknown_key(str(key), list(CHANGEABLE))))
        elif key not in CHANGEABLE:
            faults += [] if value == before[key] else [Fault(key, _fixed(FIXED.get(key, TRAINED)))]
        else:
            given = {**before[key], **value} if key == "budget" and isinstance(value, Mapping) else value
            found, fields[key] = read_field(key, given)
            faults += found
            if key == "budget" and not found:
                faults += _budget_faults(before[key], given)
    if faults:
        raise InvalidInput(faults)
    return spec.model_copy(update=fields)


def _budget_faults(before: Mapping[str, Any], given: Mapping[str, Any]) -> list[Fault]:
    return [Fault(f"budget.{key}", _fixed(why)) for key, why in BUDGET.items() if given[key] != before[key]]


def _fixed(why: str) -> str:
    return f"cannot change: {why}; clone the study to have another"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, list[Any]]:
    """Return what differs between two documents, by path: the value before and after."""
    found: dict[str, list[Any]] = {}
    for key in {**old, **new}:
        before, after, name = old.get(key), new.get(key), f"{path}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= differences(before, after, f"{name}.")
        elif before != after:
            found[name] = [before, after]
    return found


def merged(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with a JSON merge patch (RFC 7396): mappings merge, null removes a key, all else replaces."""
    result = dict(document)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def said(value: Any) -> Any:
    """Return a document without what it leaves open, so that a patch may say another thing in its place."""
    if isinstance(value, Mapping):
        return {key: said(item) for key, item in value.items() if item is not None}
    return [said(item) for item in value] if isinstance(value, list) else value
