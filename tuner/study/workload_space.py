"""The workload's part of a study's search space: domains named `workload.<parameter>`.

- Every trial that the space may propose gives the workload what it takes, as far as that is known (`Signature`).
- What could never take effect is a fault: a parameter that is given twice, a condition that cannot hold.
- A document that was read (`read_space`) says everything that its space depends on, so that it means the same when a
  restarted server reads it again and no worker is there to ask.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from tuner.errors import Fault
from tuner.study.hyperparameter import PREFIX, Hyperparameter, Scalar
from tuner.study.reading import shown
from tuner.study.space import is_among
from tuner.study.spec import OptimizerChoice, ParameterSpec, WorkloadRef
from tuner.study.suggestion import hint
from tuner.study.workload_parameters import Anything, Parameter, Signature

Places = Sequence[tuple[str, str, ParameterSpec]]
"""(path in the document, parameter without its prefix, domain)."""


def workload_space_faults(fields: Mapping[str, Any], signature: Signature) -> Iterator[Fault]:
    """Yield the faults of the workload's domains in what could be read of a document."""
    reference: WorkloadRef = fields["workload"]
    places = _places(fields)
    for path, name, parameter in places:
        if name in reference.params:
            told = f"is given as workload.params.{name} too; give it once: fixed there, or searched here"
            yield Fault(path, told)
        yield from _domain_faults(path, name, parameter, signature)
        if parameter.when and path.startswith("optimizers"):
            yield Fault(f"{path}.when", "belongs in `parameters`; this is one optimizer already")
        else:
            yield from _condition_faults(path, name, parameter, fields.get("parameters", {}), signature)
    yield from _missing(fields, reference, signature)
    if signature.workload == "text-gpt":
        yield from _heads_faults(reference, places, signature)


def read_space(fields: dict[str, Any], signature: Signature) -> None:
    """Write the workload's domains into a faultless document's fields as the workload takes them."""
    parameters: dict[str, ParameterSpec] = fields["parameters"]
    fields["parameters"] = {key: _read(key, parameter, signature) for key, parameter in parameters.items()}
    choices: list[OptimizerChoice] = fields["optimizers"]
    fields["optimizers"] = [
        choice.model_copy(update={"overrides": {k: _read(k, p, signature) for k, p in choice.overrides.items()}})
        if any(key.startswith(PREFIX) for key in choice.overrides)
        else choice
        for choice in choices
    ]
    searched = sorted({name for _, name, _ in _places(fields)} & signature.values)
    fields["workload"] = fields["workload"].model_copy(update={"values": searched})


def _places(fields: Mapping[str, Any]) -> Places:
    found = [(f"parameters.{key}", key, parameter) for key, parameter in fields.get("parameters", {}).items()]
    for i, choice in enumerate(fields.get("optimizers", [])):
        if choice is not None:
            found += [(f"optimizers[{i}].{key}", key, parameter) for key, parameter in choice.overrides.items()]
    return [(path, key.removeprefix(PREFIX), parameter) for path, key, parameter in found if key.startswith(PREFIX)]


def _domain_faults(path: str, name: str, parameter: ParameterSpec, signature: Signature) -> Iterator[Fault]:
    takes = signature.find(name)
    if takes is None:
        yield Fault(path, signature.unknown(name))
        return
    number = isinstance(takes, Hyperparameter) and not takes.choices
    if parameter.min is not None and not number and not isinstance(takes, Anything):
        yield Fault(path, "a range is not possible here; give `values: [...]`")
        return
    if parameter.integer is not None and isinstance(takes, Hyperparameter) and parameter.integer != takes.integer:
        told = f"{str(parameter.integer).lower()} given; {name} is {takes.allowed()}, so leave it out"
        yield Fault(f"{path}.integer", told)
    ends = (".min", ".max") if parameter.min is not None else ("",) * len(parameter.listed)
    for end, value in zip(ends, parameter.listed, strict=True):
        if fault := takes.fault(takes.read(value)):
            yield Fault(f"{path}{end}", fault)


def _condition_faults(
    path: str, name: str, parameter: ParameterSpec, parameters: Mapping[str, ParameterSpec], signature: Signature
) -> Iterator[Fault]:
    """Yield the faults of conditions on other workload parameters."""
    for key, wanted in parameter.when.items():
        if not key.startswith(PREFIX):
            continue
        other, takes = parameters.get(key), signature.find(key.removeprefix(PREFIX))
        if other is None or takes is None:
            known = [k for k in parameters if k.startswith(PREFIX) and k != PREFIX + name]
            told = f"those are {', '.join(known)}" if known else "there are no others"
            message = f"{shown(key)} is not among the workload's searched parameters; {hint(key, known, told)}"
            yield Fault(f"{path}.when.{key}", message)
        elif _circular(PREFIX + name, key, parameters):
            yield Fault(f"{path}.when.{key}", "depends on this parameter itself; conditions must not form a circle")
        elif other.min is not None:
            yield Fault(f"{path}.when.{key}", f"{key} is a range; a condition needs one with `values`")
        else:
            possible = [takes.read(value) for value in other.listed]
            for value in wanted:
                if not is_among(takes.read(value), possible):
                    told = f"{shown(value)} can never hold; its values are {', '.join(map(str, possible))}"
                    yield Fault(f"{path}.when.{key}", told)


def _circular(name: str, key: str, parameters: Mapping[str, ParameterSpec]) -> bool:
    """Whether the conditions of `key` lead back to `name`."""
    seen: set[str] = set()
    ahead = [key]
    while ahead:
        one = ahead.pop()
        if one == name:
            return True
        if one not in seen and one in parameters:
            seen.add(one)
            ahead += parameters[one].when
    return False


def _missing(fields: Mapping[str, Any], reference: WorkloadRef, signature: Signature) -> Iterator[Fault]:
    """Yield a fault for each required parameter that some trial may not have."""
    parameters: Mapping[str, ParameterSpec] = fields.get("parameters", {})
    choices: Sequence[OptimizerChoice | None] = fields.get("optimizers", [])
    for name in sorted(signature.required - reference.params.keys()):
        shared = parameters.get(PREFIX + name)
        if shared is not None and not shared.when:
            continue
        own = [choice is not None and PREFIX + name in choice.overrides for choice in choices]
        if own and all(own):
            continue
        told = f"is missing; {signature.takes}"
        if shared is not None or any(own):
            told = f"is missing in some trials, and {signature.workload} has no default for it"
        yield Fault(f"workload.params.{name}", told)


def _heads_faults(reference: WorkloadRef, places: Places, signature: Signature) -> Iterator[Fault]:
    """Check that every width of a transformer can be divided among every number of heads."""
    found: dict[str, list[Scalar]] = {}
    for name, default in (("width", 64), ("heads", 4)):
        own = [parameter for _, other, parameter in places if other == name]
        conditional = any(parameter.when for parameter in own) or any(p.startswith("optimizers") for p, *_ in places)
        if any(parameter.min is not None and parameter.min < (parameter.max or 0) for parameter in own):
            path = next(path for path, other, _ in places if other == name)
            yield Fault(path, "a range is not possible here: width has to be a multiple of heads; give `values: [...]`")
            return
        found[name] = [signature.parameters[name].read(value) for parameter in own for value in parameter.listed]
        if not own or conditional:
            found[name].append(reference.params.get(name, default))
    for width, heads in product(found["width"], found["heads"]):
        legal = [not signature.parameters[name].fault(value) for name, value in (("width", width), ("heads", heads))]
        if all(legal) and int(width) % int(heads):
            path = next((path for path, name, _ in places if name in found), "workload.params.width")
            told = f"is {width}; allowed are multiples of heads, {heads}"
            yield Fault(path, f"width {told}" if places else told)
            return


def _read(key: str, parameter: ParameterSpec, signature: Signature) -> ParameterSpec:
    when = {
        other: [_taken(other, signature).read(value) for value in wanted] if other.startswith(PREFIX) else wanted
        for other, wanted in parameter.when.items()
    }
    if not key.startswith(PREFIX):
        return parameter
    takes = _taken(key, signature)
    update: dict[str, Any] = {"when": when}
    if parameter.value is not None:
        update["value"] = takes.read(parameter.value)
    if parameter.values is not None:
        update["values"] = [takes.read(value) for value in parameter.values]
    if isinstance(takes, Hyperparameter):
        update["integer"] = takes.integer
    return parameter.model_copy(update=update)


def _taken(key: str, signature: Signature) -> Parameter:
    name = key.removeprefix(PREFIX)
    return signature.find(name) or Anything(name)
