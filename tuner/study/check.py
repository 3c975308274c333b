"""Parsing a study document: every fault at once, each with its field, the value seen and what is allowed.

Fields are validated one by one, so that a fault in one does not hide those in another; checks that need the catalogue
or several fields then run on whatever could be read.
"""

import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tuner.errors import Fault, InvalidInput
from tuner.study.catalogue import BUILT_IN_METRICS, EXTERNAL, Catalogue
from tuner.study.external import external_faults
from tuner.study.given import enqueue_faults
from tuner.study.group_check import group_faults
from tuner.study.reading import shown
from tuner.study.space_check import optimizer_faults, space_faults
from tuner.study.spec import (
    MOST_GROUPS,
    Budget,
    GroupSpec,
    Metric,
    OptimizerChoice,
    ParameterSpec,
    Retry,
    StudySpec,
    WorkloadRef,
)
from tuner.study.suggestion import hint
from tuner.study.workload_parameters import Signature, parameter_faults, read_parameters, signature_of
from tuner.study.workload_space import read_space, workload_space_faults

_SECTIONS: dict[str, type[BaseModel]] = {"workload": WorkloadRef, "metric": Metric, "budget": Budget, "retry": Retry}


def parse_study(
    document: Mapping[str, Any],
    catalogue: Catalogue,
    workloads: Collection[str],
    signatures: Mapping[str, Signature] | None = None,
) -> StudySpec:
    """Read a study document. `signatures` say what users' workloads take, as far as workers told.

    Raises:
        InvalidInput: with every fault that the document has.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput([Fault("", f"a study is a mapping of keys to values, not {type(document).__name__}")])
    faults: list[Fault] = list(_unknown_keys(document))
    fields: dict[str, Any] = {}
    external = _names_external(document.get("workload"))
    for name, info in StudySpec.model_fields.items():
        if name not in document:
            if name == "optimizers" and external:
                fields[name] = []
            elif info.is_required():
                faults.append(Fault(name, "is missing; it is required"))
            else:
                fields[name] = info.get_default(call_default_factory=True)
        elif name in ("optimizers", "parameters", "groups"):
            fields[name], found = _entries(name, document[name], optional=external)
            faults += found
        else:
            found, value = _validate(_adapter(info), name, document[name])
            faults += found
            if not found:
                fields[name] = value
    reference: WorkloadRef | None = fields.get("workload")
    if "budget" in fields:
        faults += _settle_budget(fields, document.get("budget", {}), external)
    if reference is not None:
        signature = signature_of(reference.name, signatures)
    if reference is not None and external:
        faults += optimizer_faults(fields.get("optimizers", []), catalogue)
        faults += external_faults(fields, document, catalogue)
    elif reference is not None:
        faults += _workload_faults(fields, workloads, signature)
    if not external:
        faults += [*space_faults(fields, catalogue), *group_faults(fields, catalogue)]
    if faults or reference is None:
        raise InvalidInput(faults)
    if not external:
        read_space(fields, signature)
    spec = StudySpec.model_construct(**fields)  # every field has been validated above
    if faults := list(enqueue_faults(spec, catalogue, signature)):
        raise InvalidInput(faults)
    return spec


def _names_external(workload: Any) -> bool:
    """Whether a document's workload is the user's own code, however it is written."""
    return (workload.get("name") if isinstance(workload, Mapping) else workload) == EXTERNAL


def _settle_budget(fields: dict[str, Any], given: Any, external: bool) -> Iterator[Fault]:
    """Leave the length of a trial open where own code trains it and the document does not say; nowhere else."""
    budget: Budget = fields["budget"]
    if external and isinstance(given, Mapping) and "examples_per_trial" not in given:
        fields["budget"] = budget.model_copy(update={"examples_per_trial": None})
        budget = fields["budget"]
    if budget.examples is not None:
        length = budget.examples_per_trial
        if length is None:
            yield Fault("budget.examples", "needs examples_per_trial, which is promised to each trial beforehand")
        elif length > budget.examples:
            yield Fault("budget.examples", f"{budget.examples} given, which is less than one trial's {length}")
    if not external and budget.examples_per_trial is None:
        yield Fault("budget.examples_per_trial", "null given; allowed is a whole number from 1 to 10^12")
        fields["budget"] = budget.model_copy(update={"examples_per_trial": Budget().examples_per_trial})


def read_field(name: str, value: Any) -> tuple[list[Fault], Any]:
    """Read one key of a document by itself; return its faults, and the value if there are none."""
    return _validate(_adapter(StudySpec.model_fields[name]), name, value)


def _adapter(info: Any) -> TypeAdapter[Any]:
    """Validate a field as the document's model would; sections have their own configuration."""
    annotated: Any = typing.Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    is_section = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    return TypeAdapter(annotated, config=None if is_section else ConfigDict(allow_inf_nan=False))


def _unknown_keys(document: Mapping[str, Any]) -> Iterator[Fault]:
    known = list(StudySpec.model_fields)
    for key in document:
        if key not in known:
            yield Fault(str(key), unknown_key(str(key), known))


def unknown_key(key: str, known: list[str]) -> str:
    """Say that a key is unknown, and which are known."""
    return f"unknown key; {hint(key, known, 'allowed are ' + ', '.join(known))}"


def _validate(adapter: TypeAdapter[Any], path: str, value: Any) -> tuple[list[Fault], Any]:
    try:
        return [], adapter.validate_python(value)
    except ValidationError as error:
        return [_fault(path, e) for e in error.errors()], None


def _fault(path: str, error: Any) -> Fault:
    in_group = path.startswith("groups[") and len(error["loc"]) == 1
    section = GroupSpec if in_group else _SECTIONS.get(path, ParameterSpec)
    for part in error["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "overrides":  # the field's name is ours, not the user's
            path += f".{part}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[0].lower() + message[1:]
    seen = error["input"]
    if error["type"] == "extra_forbidden":
        return Fault(path, unknown_key(str(error["loc"][-1]), list(section.model_fields)))
    if error["type"] == "model_type":
        return Fault(path, f"{shown(seen)} given; a mapping of keys to values is needed")
    if error["type"] in ("missing", "value_error") or isinstance(seen, Mapping):
        return Fault(path, message)
    return Fault(path, f"{shown(seen)} given; {message}")


def _entries(name: str, value: Any, *, optional: bool) -> tuple[Any, list[Fault]]:
    """Validate the members of `optimizers` (which may be `optional`), `groups` or `parameters` one by one.

    Those that are good are kept.
    """
    faults: list[Fault] = []
    if name == "groups":
        return _groups(value)
    if name == "optimizers":
        if not isinstance(value, list) or not (value or optional):
            return [], [Fault(name, f"{shown(value)} given; a list of one or more optimizers is needed")]
        choices: list[OptimizerChoice | None] = []
        for i, item in enumerate(value):
            found, choice = _validate(TypeAdapter(OptimizerChoice), f"{name}[{i}]", item)
            faults += found
            choices.append(choice)  # None for a faulty one, so that positions stay the user's
        return choices, faults
    if not isinstance(value, Mapping):
        return {}, [Fault(name, f"{shown(value)} given; a mapping of names to values or ranges is needed")]
    parameters: dict[str, ParameterSpec] = {}
    for key, item in value.items():
        found, parameter = _validate(TypeAdapter(ParameterSpec), f"{name}.{key}", item)
        faults += found
        if not found:
            parameters[str(key)] = parameter
    return parameters, faults


def _groups(value: Any) -> tuple[list[GroupSpec | None], list[Fault]]:
    """Validate parameter groups one by one; a faulty one is None, so that positions stay the user's."""
    if not isinstance(value, list) or len(value) > MOST_GROUPS:
        return [], [Fault("groups", f"{shown(value)} given; a list of at most {MOST_GROUPS} groups is needed")]
    faults: list[Fault] = []
    groups = []
    for i, item in enumerate(value):
        found, group = _validate(TypeAdapter(GroupSpec), f"groups[{i}]", item)
        faults += found
        groups.append(group)
    return groups, faults


def _workload_faults(fields: dict[str, Any], workloads: Collection[str], signature: Signature) -> Iterator[Fault]:
    """Check the workload, its parameters and the metric as far as they are known; read the parameters."""
    reference: WorkloadRef = fields["workload"]
    name = reference.name
    if name not in workloads:
        known = f"known are {', '.join(sorted(workloads))}"
        yield Fault("workload", f"unknown workload {shown(name)}; {hint(name, workloads, known)}")
    params = read_parameters(signature, reference.params)
    fields["workload"] = WorkloadRef(name=name, params=params)
    yield from parameter_faults(signature, params)
    yield from workload_space_faults(fields, signature)
    metric, reported = fields.get("metric"), BUILT_IN_METRICS.get(name)
    if reported is not None and metric is not None and metric.name not in reported:
        told = f"{name} reports {', '.join(reported)}"
        yield Fault("metric.name", f"{shown(metric.name)} given; {told}{_meant(metric.name, reported)}")


def _meant(word: str, known: Collection[str]) -> str:
    return "".join(f"; {meant}" for meant in [hint(word, known, "")] if meant)
