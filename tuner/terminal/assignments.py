"""KEY=VALUE arguments, read as a study document reads its values: numbers, text, lists, mappings."""

from collections.abc import Collection, Sequence
from typing import Any

from tuner.document import parse_document
from tuner.errors import Fault, InvalidInput


def assignments(texts: Sequence[str], *, text: Collection[str] = ()) -> dict[str, Any]:
    """Return what KEY=VALUE arguments say, e.g. `run_cap=128`, `tags=[a, b]`, `parallel=null`.

    The values of keys in `text` are text, whatever they look like. Raises `InvalidInput` with every fault.
    """
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for given in texts:
        key, sign, value = given.partition("=")
        if not key or not sign:
            faults.append(Fault(given, "is no KEY=VALUE, e.g. run_cap=128"))
        elif key in found:
            faults.append(Fault(key, "is given twice"))
        elif key in text:
            found[key] = value
        else:
            try:
                found[key] = parse_document(f"value: {value}", key).values["value"]
            except InvalidInput as error:
                faults += [Fault(key, f"{value!r} cannot be read: {fault.message}") for fault in error.faults]
    if faults:
        raise InvalidInput(faults)
    return found


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Put what belongs into a section of the document there: `budget.max_failed` into `budget`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, rest = key.partition(".")
        if not dot:
            found[key] = value
        elif isinstance(found.setdefault(section, {}), dict):
            found[section][rest] = value
        else:
            raise InvalidInput([Fault(key, f"{section} is given as a whole, too")])
    return found
