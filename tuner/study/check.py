"""Parsing a study document: every fault at once, each with its field, the value seen and what is allowed.

Fields are validated one by one, so that a fault in one does not hide those in another; checks that need the catalogue
or several fields then run on whatever could be read.
"""

import difflib
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tuner.errors import Fault, InvalidInput
from tuner.study.catalogue import BUILT_IN_METRICS, Catalogue
from tuner.study.families import schedule_parameters
from tuner.study.hyperparameter import Hyperparameter
from tuner.study.space import Choices, Domain, Fixed, Range
from tuner.study.spec import OptimizerChoice, ParameterSpec, StudySpec

OWN = ("batch_size", "schedule")
"""What every trial has besides its optimizer's hyperparameters; the study or one of its optimizers sets the choices."""


def parse_study(document: Mapping[str, Any], catalogue: Catalogue, workloads: Collection[str]) -> StudySpec:
    """Read a study document.

    Raises:
        InvalidInput: with every fault that the document has.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput([Fault("", f"a study is a mapping of keys to values, not {type(document).__name__}")])
    faults: list[Fault] = list(_unknown_keys(document))
    fields: dict[str, Any] = {}
    for name, info in StudySpec.model_fields.items():
        if name not in document:
            if info.is_required():
                faults.append(Fault(name, "is missing; it is required"))
            else:
                fields[name] = info.get_default(call_default_factory=True)
        elif name in ("optimizers", "parameters"):
            fields[name], found = _entries(name, document[name])
            faults += found
        else:
            found, value = _validate(_adapter(info), name, document[name])
            faults += found
            if not found:
                fields[name] = value
    faults += _checks(StudySpec.model_construct(**fields), fields, catalogue, workloads)
    if faults:
        raise InvalidInput(faults)
    return StudySpec.model_construct(**fields)  # every field has been validated above


def _adapter(info: Any) -> TypeAdapter[Any]:
    """Validate a field as the document's model would; sections have their own configuration."""
    annotated: Any = typing.Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    is_section = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    return TypeAdapter(annotated, config=None if is_section else ConfigDict(allow_inf_nan=False))


def _unknown_keys(document: Mapping[str, Any]) -> Iterator[Fault]:
    known = list(StudySpec.model_fields)
    for key in document:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; allowed are {', '.join(known)}"
            yield Fault(str(key), f"unknown key{hint}")


def _validate(adapter: TypeAdapter[Any], path: str, value: Any) -> tuple[list[Fault], Any]:
    try:
        return [], adapter.validate_python(value)
    except ValidationError as error:
        return [_fault(path, e) for e in error.errors()], None


def _fault(path: str, error: Any) -> Fault:
    for part in error["loc"]:
        # Names of union members are pydantic's, not the user's.
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("bool", "int", "float", "str", "overrides"):
            path += f".{part}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    seen = error["input"]
    if error["type"] in ("missing", "value_error") or isinstance(seen, Mapping):
        return Fault(path, message[0].lower() + message[1:])
    return Fault(path, f"{seen!r} given; {message[0].lower() + message[1:]}")


def _entries(name: str, value: Any) -> tuple[Any, list[Fault]]:
    """Validate the members of `optimizers` or `parameters` one by one and keep the good ones."""
    faults: list[Fault] = []
    if name == "optimizers":
        if not isinstance(value, list) or not value:
            return [], [Fault(name, f"{value!r} given; a list of one or more optimizers is needed")]
        choices: list[OptimizerChoice | None] = []
        for i, item in enumerate(value):
            found, choice = _validate(TypeAdapter(OptimizerChoice), f"{name}[{i}]", item)
            faults += found
            choices.append(choice)  # None for a faulty one, so that positions stay the user's
        return choices, faults
    if not isinstance(value, Mapping):
        return {}, [Fault(name, f"{value!r} given; a mapping of names to values or ranges is needed")]
    parameters: dict[str, ParameterSpec] = {}
    for key, item in value.items():
        found, parameter = _validate(TypeAdapter(ParameterSpec), f"{name}.{key}", item)
        faults += found
        if not found:
            parameters[str(key)] = parameter
    return parameters, faults


def _checks(
    spec: StudySpec, fields: Mapping[str, Any], catalogue: Catalogue, workloads: Collection[str]
) -> Iterator[Fault]:
    if "workload" in fields and spec.workload.name not in workloads:
        yield Fault("workload", f"unknown workload {spec.workload.name!r}; known are {', '.join(sorted(workloads))}")
    reported = BUILT_IN_METRICS.get(spec.workload.name) if "workload" in fields else None
    if reported is not None and "metric" in fields and spec.metric.name not in reported:
        known = ", ".join(reported)
        yield Fault("metric.name", f"{spec.metric.name!r} given; {spec.workload.name} reports {known}")
    optimizers = fields.get("optimizers", [])
    yield from _optimizer_faults(optimizers, catalogue)
    names = [choice.name for choice in optimizers if choice is not None]
    for key, parameter in fields.get("parameters", {}).items():
        yield from _parameter_faults(key, parameter, names, catalogue)
    if {"parameters", "budget", "micro_batch"} <= set(fields) and optimizers and None not in optimizers:
        yield from _batch_faults(spec)


def _optimizer_faults(choices: list[OptimizerChoice | None], catalogue: Catalogue) -> Iterator[Fault]:
    seen: set[str] = set()
    for i, choice in enumerate(choices):
        if choice is None:
            continue
        path = f"optimizers[{i}]"
        info = catalogue.optimizers.get(choice.name)
        if info is None:
            yield Fault(path, f"unknown optimizer {choice.name!r}; known are {', '.join(sorted(catalogue.optimizers))}")
            continue
        if choice.name in seen:
            yield Fault(path, f"{choice.name!r} is listed twice; each optimizer is one family")
        seen.add(choice.name)
        for name, parameter in choice.overrides.items():
            if name in OWN:
                yield from _own_faults(f"{path}.{name}", name, parameter, catalogue)
                continue
            hyperparameter = info.hyperparameter(name)
            if hyperparameter is None:
                known = ", ".join(h.name for h in info.hyperparameters)
                yield Fault(f"{path}.{name}", f"{choice.name} has no hyperparameter {name!r}; it has {known}")
                continue
            if parameter.when:
                yield Fault(f"{path}.{name}.when", "belongs in `parameters`; this is one optimizer already")
            yield from _domain_faults(f"{path}.{name}", hyperparameter, parameter.domain)


def _parameter_faults(key: str, parameter: ParameterSpec, names: list[str], catalogue: Catalogue) -> Iterator[Fault]:
    path = f"parameters.{key}"
    wanted = parameter.when.get("optimizer")
    for name in wanted or []:
        if name not in names:
            yield Fault(f"{path}.when.optimizer", f"{name!r} is not among the study's optimizers {', '.join(names)}")
    for name in parameter.when.get("schedule", []):
        if name not in catalogue.schedules:
            yield Fault(
                f"{path}.when.schedule", f"unknown schedule {name!r}; known are {', '.join(catalogue.schedules)}"
            )
    if key in OWN:
        yield from _own_faults(path, key, parameter, catalogue)
        return
    shared = schedule_parameters(catalogue).get(key)
    if shared is not None:
        yield from _domain_faults(path, shared, parameter.domain)
        return
    families = [n for n in names if n in catalogue.optimizers and (wanted is None or n in wanted)]
    found = {n: catalogue.optimizers[n].hyperparameter(key) for n in families}
    lacking = [n for n, hyperparameter in found.items() if hyperparameter is None]
    if lacking and len(lacking) == len(found):
        yield Fault(path, f"unknown: no optimizer or schedule of this study has {key!r}")
    elif lacking:
        have = ", ".join(n for n in found if n not in lacking)
        yield Fault(path, f"{', '.join(lacking)} has no {key!r}; add `when: {{optimizer: [{have}]}}`")
    for name, hyperparameter in found.items():
        if hyperparameter is not None:
            for fault in _domain_faults(path, hyperparameter, parameter.domain):
                yield Fault(fault.field, f"{fault.message} (for {name})")


def _own_faults(path: str, key: str, parameter: ParameterSpec, catalogue: Catalogue) -> Iterator[Fault]:
    domain = parameter.domain
    if parameter.when:
        yield Fault(f"{path}.when", f"{key} takes no condition; give an optimizer its own: {{name: ..., {key}: ...}}")
    if isinstance(domain, Range):
        yield Fault(path, "a range is not possible here; give `values: [...]`")
        return
    for value in domain.values if isinstance(domain, Choices) else (domain.value,):
        if key == "schedule" and value not in catalogue.schedules:
            yield Fault(path, f"unknown schedule {value!r}; known are {', '.join(catalogue.schedules)}")
        if key == "batch_size" and (isinstance(value, bool | str) or value != int(value) or value < 1):
            yield Fault(path, f"{value!r} given; a batch size is a whole number of 1 or more")


def _domain_faults(path: str, hyperparameter: Hyperparameter, domain: Domain) -> Iterator[Fault]:
    if isinstance(domain, Range):
        if hyperparameter.choices:
            yield Fault(path, f"a range is not possible here; allowed is {hyperparameter.allowed()}")
            return
        for end, bound in (("min", domain.min), ("max", domain.max)):
            if fault := hyperparameter.fault(bound):
                yield Fault(f"{path}.{end}", fault)
        return
    for value in (domain.value,) if isinstance(domain, Fixed) else domain.values:
        if fault := hyperparameter.fault(value):
            yield Fault(path, fault)


def _batch_faults(spec: StudySpec) -> Iterator[Fault]:
    given = [spec.parameters.get("batch_size"), *(choice.overrides.get("batch_size") for choice in spec.optimizers)]
    if any(p is not None and (p.min is not None or not _whole_and_positive(p)) for p in given):
        return
    sizes = spec.batch_sizes()
    if spec.micro_batch is not None:
        odd = [str(size) for size in sizes if size % spec.micro_batch]
        if odd:
            yield Fault("micro_batch", f"{spec.micro_batch} given; it does not divide batch size {', '.join(odd)}")
    if min(sizes) > spec.budget.examples_per_trial:
        yield Fault(
            "budget.examples_per_trial",
            f"{spec.budget.examples_per_trial} given; it is less than the smallest batch size {min(sizes)}, "
            "so no trial could take a step",
        )


def _whole_and_positive(parameter: ParameterSpec) -> bool:
    values = parameter.values if parameter.values is not None else [parameter.value]
    return all(isinstance(v, int | float) and v >= 1 and v == int(v) for v in values)
