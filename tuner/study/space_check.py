"""Faults of a study's search space: what its optimizers and parameters ask for, against the catalogue.

- What is accepted here can be trained: every configuration that the space may propose is one that its rule takes.
- What could never take effect is a fault, not an entry without meaning: a condition that cannot hold, a parameter of a
  schedule that nobody uses, batch sizes with which no trial could take a step.
- Checks go as far as the document could be read, so that one fault does not hide those behind it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuner.errors import Fault
from tuner.study.catalogue import Catalogue
from tuner.study.families import chosen_schedules, schedule_choice, schedule_parameters
from tuner.study.hyperparameter import PREFIX, Hyperparameter, Scalar
from tuner.study.reading import shown
from tuner.study.spec import BATCH_SIZE, Budget, OptimizerChoice, ParameterSpec, batch_sizes
from tuner.study.suggestion import hint

OWN = ("batch_size", "schedule")
"""What every trial has besides its optimizer's hyperparameters; the study or one of its optimizers sets the choices."""


def space_faults(fields: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Fault]:
    """Yield the faults of what could be read of a document; a faulty optimizer is None in its place."""
    choices: list[OptimizerChoice | None] = fields.get("optimizers", [])
    parameters: dict[str, ParameterSpec] = fields.get("parameters", {})
    yield from optimizer_faults(choices, catalogue)
    known = [choice for choice in choices if choice is not None and choice.name in catalogue.optimizers]
    names = [choice.name for choice in choices if choice is not None]
    unused: list[Fault] = []
    for key, parameter in parameters.items():
        faults = list(_when_faults(f"parameters.{key}.when", parameter, names, catalogue))
        if not key.startswith(PREFIX):  # see `workload_space.py`
            faults += _parameter_faults(key, parameter, names, catalogue)
        yield from faults
        if not faults and known and len(known) == len(choices):
            unused += _unused(key, parameter, known, parameters, catalogue)
    yield from unused
    if known and len(known) == len(choices) and {"parameters", "budget", "micro_batch"} <= set(fields):
        yield from _batch_faults(known, parameters, fields["budget"], fields["micro_batch"])


def optimizer_faults(choices: Sequence[OptimizerChoice | None], catalogue: Catalogue) -> Iterator[Fault]:
    """Yield the faults of `optimizers`: names, and the domains that they bring."""
    seen: set[str] = set()
    for i, choice in enumerate(choices):
        if choice is None:
            continue
        path, known = f"optimizers[{i}]", catalogue.optimizers
        if choice.name not in known:
            told = f"known are {', '.join(sorted(known))}"
            yield Fault(path, f"unknown optimizer {shown(choice.name)}; {hint(choice.name, known, told)}")
            continue
        if choice.name in seen:
            yield Fault(path, f"{choice.name!r} is listed twice; each optimizer is one family")
        seen.add(choice.name)
        for name, parameter in choice.overrides.items():
            if name.startswith(PREFIX):
                continue
            yield from _override_faults(f"{path}.{name}", choice.name, name, parameter, catalogue)


def _override_faults(
    path: str, optimizer: str, name: str, parameter: ParameterSpec, catalogue: Catalogue
) -> Iterator[Fault]:
    if name in OWN:
        yield from _own_faults(path, name, parameter, catalogue)
        return
    info = catalogue.optimizers[optimizer]
    hyperparameter = info.hyperparameter(name)
    if hyperparameter is None and name in schedule_parameters(catalogue):
        yield Fault(path, f"{name} is a parameter of schedules; it belongs in `parameters`")
    elif hyperparameter is None:
        known = [h.name for h in info.hyperparameters]
        told = hint(name, [*known, *OWN], f"it has {', '.join(known)}")
        yield Fault(path, f"{optimizer} has no hyperparameter {shown(name)}; {told}")
    else:
        if parameter.when:
            yield Fault(f"{path}.when", "belongs in `parameters`; this is one optimizer already")
        yield from domain_faults(path, hyperparameter, parameter)


def _when_faults(path: str, parameter: ParameterSpec, names: list[str], catalogue: Catalogue) -> Iterator[Fault]:
    for name in parameter.names("optimizer", ()):
        if name not in names:
            told = hint(name, names, f"those are {', '.join(names)}")
            yield Fault(f"{path}.optimizer", f"{shown(name)} is not among the study's optimizers; {told}")
    for name in parameter.names("schedule", ()):
        if name not in catalogue.schedules:
            yield Fault(f"{path}.schedule", _unknown_schedule(name, catalogue))


def _parameter_faults(key: str, parameter: ParameterSpec, names: list[str], catalogue: Catalogue) -> Iterator[Fault]:
    path = f"parameters.{key}"
    for name in parameter.when:
        if name.startswith(PREFIX):
            yield Fault(f"{path}.when.{name}", "only parameters of the workload may depend on one of the workload")
    shared = schedule_parameters(catalogue)
    if key in OWN:
        yield from _own_faults(path, key, parameter, catalogue)
    elif key in shared:
        yield from domain_faults(path, shared[key], parameter)
    else:
        yield from _hyperparameter_faults(key, parameter, names, catalogue)


def _hyperparameter_faults(
    key: str, parameter: ParameterSpec, names: list[str], catalogue: Catalogue
) -> Iterator[Fault]:
    path, wanted = f"parameters.{key}", parameter.names("optimizer", names)
    families = [name for name in names if name in catalogue.optimizers and name in wanted]
    found = {name: catalogue.optimizers[name].hyperparameter(key) for name in families}
    lacking = [name for name, hyperparameter in found.items() if hyperparameter is None]
    if lacking and len(lacking) == len(found):
        known = {h.name for name in families for h in catalogue.optimizers[name].hyperparameters}
        meant = hint(key, [*sorted(known), *OWN, *schedule_parameters(catalogue)], "")
        told = f"unknown: no optimizer or schedule of this study has {shown(key)}"
        yield Fault(path, f"{told}; {meant}" if meant else told)
    elif lacking:
        have = ", ".join(name for name in found if name not in lacking)
        yield Fault(path, f"{', '.join(lacking)} has no {key!r}; add `when: {{optimizer: [{have}]}}`")
    for name, hyperparameter in found.items():
        if hyperparameter is not None:
            for fault in domain_faults(path, hyperparameter, parameter):
                yield Fault(fault.field, f"{fault.message} (for {name})")


def _own_faults(path: str, key: str, parameter: ParameterSpec, catalogue: Catalogue) -> Iterator[Fault]:
    if parameter.when:
        yield Fault(f"{path}.when", f"{key} takes no condition; give an optimizer its own: {{name: ..., {key}: ...}}")
    if parameter.min is not None:
        yield Fault(path, "a range is not possible here; give `values: [...]`")
        return
    if key == "batch_size":
        yield from _integer_faults(path, BATCH_SIZE, parameter)
        yield from (Fault(path, told) for value in parameter.listed if (told := _batch_size_fault(value)))
        return
    for value in parameter.listed:
        if value not in catalogue.schedules:
            yield Fault(path, _unknown_schedule(value, catalogue))
    yield from _integer_faults(path, schedule_choice(catalogue), parameter)


def _batch_size_fault(value: Scalar) -> str | None:
    legal = BATCH_SIZE.fault(BATCH_SIZE.read(value)) is None
    return None if legal else f"{shown(value)} given; a batch size is a whole number from 1 to {BATCH_SIZE.high:,}"


def _unknown_schedule(name: object, catalogue: Catalogue) -> str:
    told = f"known are {', '.join(catalogue.schedules)}"
    return f"unknown schedule {shown(name)}; {hint(str(name), catalogue.schedules, told)}"


def domain_faults(path: str, hyperparameter: Hyperparameter, parameter: ParameterSpec) -> Iterator[Fault]:
    """Yield the faults of a domain: values that the hyperparameter may not have."""
    yield from _integer_faults(path, hyperparameter, parameter)
    if parameter.min is not None and hyperparameter.choices:
        yield Fault(path, f"a range is not possible here; allowed is {hyperparameter.allowed()}")
        return
    ends = (".min", ".max") if parameter.min is not None else ("",) * len(parameter.listed)
    for end, value in zip(ends, parameter.listed, strict=True):
        if fault := hyperparameter.fault(hyperparameter.read(value)):
            yield Fault(f"{path}{end}", fault)


def _integer_faults(path: str, hyperparameter: Hyperparameter, parameter: ParameterSpec) -> Iterator[Fault]:
    if parameter.integer is not None and parameter.integer != hyperparameter.integer:
        told = f"{hyperparameter.name} is {hyperparameter.allowed()}"
        yield Fault(f"{path}.integer", f"{str(parameter.integer).lower()} given; {told}, so leave it out")


def _unused(
    key: str,
    parameter: ParameterSpec,
    choices: Sequence[OptimizerChoice],
    parameters: Mapping[str, ParameterSpec],
    catalogue: Catalogue,
) -> Iterator[Fault]:
    """Yield a fault if no trial can have the parameter."""
    path = f"parameters.{key}"
    applying = [choice for choice in choices if choice.name in parameter.names("optimizer", [choice.name])]
    if not applying:
        yield Fault(f"{path}.when.optimizer", "can never hold: it names no optimizer")
        return
    chosen = [*dict.fromkeys(s for choice in applying for s in chosen_schedules(choice, parameters, catalogue))]
    if not set(chosen) <= set(catalogue.schedules):
        return  # the unknown schedule is named elsewhere
    told = (
        f"the study's are {', '.join(chosen)}" if len(applying) == len(choices) else f"theirs are {', '.join(chosen)}"
    )
    users = [s for s, info in catalogue.schedules.items() if any(p.name == key for p in info.parameters)]
    if users and not set(users) & set(chosen):
        yield Fault(path, f"is a parameter of the schedules {', '.join(users)}; {told}")
    elif not set(users or chosen) & set(chosen) & set(parameter.names("schedule", chosen)):
        yield Fault(f"{path}.when.schedule", f"can never hold for the schedules of these trials; {told}")


def _batch_faults(
    choices: Sequence[OptimizerChoice],
    parameters: Mapping[str, ParameterSpec],
    budget: Budget,
    micro_batch: int | None,
) -> Iterator[Fault]:
    given = [parameters.get("batch_size"), *(choice.overrides.get("batch_size") for choice in choices)]
    if any(p is not None and (p.min is not None or any(map(_batch_size_fault, p.listed))) for p in given):
        return
    most = budget.examples_per_trial
    if most is None:
        return
    of_each = [batch_sizes(choice, parameters, budget) for choice in choices]
    sizes = sorted({size for own in of_each for size in own})
    if micro_batch is not None and (odd := [str(size) for size in sizes if size % micro_batch]):
        yield Fault("micro_batch", f"{micro_batch} given; it does not divide batch size {', '.join(odd)}")
    if min(sizes) > most:
        told = f"it is less than the smallest batch size {min(sizes)}, so no trial could take a step"
        yield Fault("budget.examples_per_trial", f"{most} given; {told}")
        return
    for i, (choice, own) in enumerate(zip(choices, of_each, strict=True)):
        if own[0] > most:
            told = f"the budget is {most} examples per trial, so no trial of {choice.name} could take a step"
            yield Fault(f"optimizers[{i}].batch_size", f"{own[0]} given; {told}")
