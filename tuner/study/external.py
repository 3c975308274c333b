"""`workload: external`: studies whose trials are trained by the user's own loop or script, and not by the engine.

- Hyperparameters are whatever the document names: nothing is known of them but what it says. Two have a meaning that
  figures and advice read, where they are there: `lr` is a number, `batch_size` a whole number of examples.
- `optimizers` is optional. Without it there is one family, named `external`, and a configuration is exactly the
  document's parameters. With it each optimizer brings its hyperparameters and its ranges from the catalogue.
- Nothing is assumed that only the loop knows: no batch size, no schedule, no length of a trial unless the document
  gives them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuner.errors import Fault
from tuner.study.catalogue import EXTERNAL, Catalogue
from tuner.study.hyperparameter import PREFIX, Hyperparameter
from tuner.study.reading import shown
from tuner.study.space import Domain, FamilySpace, Fixed, Range
from tuner.study.spec import BATCH_SIZE, OptimizerChoice, ParameterSpec, StudySpec
from tuner.study.workload_parameters import Anything, Parameter

LR = Hyperparameter("lr", 0.0, "learning rate")
KNOWN: Mapping[str, Hyperparameter] = {"lr": LR, "batch_size": BATCH_SIZE}
"""Hyperparameters that figures and advice read."""
MOST_CHARACTERS = 100
"""In a hyperparameter's name."""
ENGINES: Mapping[str, Any] = {"micro_batch": None, "reproducible": False, "groups": []}
"""Keys that only the engine obeys, with the values that say nothing."""


def external_faults(fields: Mapping[str, Any], given: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Fault]:
    """Yield the faults of what could be read of an external study; `given` is the document itself."""
    if not given.get("parameters") and "parameters" in fields:
        yield Fault("parameters", f"is missing; the workload {EXTERNAL!r} needs the hyperparameters of your own code")
    if "metric" not in given:
        told = f"is missing; the workload {EXTERNAL!r} needs the metric that your own code reports"
        yield Fault("metric", told)
    reference = fields["workload"]
    if reference.params:
        yield Fault("workload.params", f"the workload {EXTERNAL!r} takes none; name them in `parameters`")
    for key, nothing in ENGINES.items():
        if fields.get(key, nothing) != nothing:
            yield Fault(key, f"{shown(fields[key])} given; your own code trains these trials, so leave it out")
    choices: Sequence[OptimizerChoice | None] = fields.get("optimizers", [])
    names = [choice.name for choice in choices if choice is not None]
    for key, parameter in fields.get("parameters", {}).items():
        yield from _parameter_faults(f"parameters.{key}", key, parameter, names, catalogue)


def external_families(spec: StudySpec, catalogue: Catalogue) -> list[FamilySpace]:
    """Return one space per optimizer of an external study, or the only one of a study that names none."""
    if not spec.optimizers:
        domains = {name: parameter.domain(_takes(name)) for name, parameter in spec.parameters.items()}
        return [FamilySpace(EXTERNAL, domains, named=False)]
    return [_family(spec, choice, catalogue) for choice in spec.optimizers]


def _family(spec: StudySpec, choice: OptimizerChoice, catalogue: Catalogue) -> FamilySpace:
    domains: dict[str, Domain] = {}
    shared = {
        name: parameter
        for name, parameter in spec.parameters.items()
        if choice.name in parameter.names("optimizer", [choice.name])
    }
    own = {h.name: h for h in catalogue.optimizers[choice.name].hyperparameters}
    for name, hyperparameter in own.items():
        parameter = choice.overrides.get(name, shared.get(name))
        if parameter is not None:
            domains[name] = parameter.domain(hyperparameter)
        elif not hyperparameter.treatment:
            domains[name] = _default(hyperparameter)
    for name, parameter in {**shared, **choice.overrides}.items():
        if name not in own:
            domains[name] = parameter.domain(_takes(name))
    return FamilySpace(choice.name, domains)


def _default(hyperparameter: Hyperparameter) -> Domain:
    search = hyperparameter.search
    if search is None or not search.swept:
        return Fixed(hyperparameter.default)
    return Range(search.min, search.max, search.scaling, hyperparameter.integer)


def _takes(name: str) -> Parameter:
    return KNOWN.get(name) or Anything(name)


def _parameter_faults(
    path: str, name: str, parameter: ParameterSpec, optimizers: Sequence[str], catalogue: Catalogue
) -> Iterator[Fault]:
    if not (name and name == name.strip() and name.isprintable() and len(name) <= MOST_CHARACTERS):
        yield Fault(path, f"{shown(name)} is no name; allowed are 1 to {MOST_CHARACTERS} printable characters")
    if name.startswith(PREFIX):
        yield Fault(path, f"own code has no workload; name it {name.removeprefix(PREFIX)!r}")
    if name == "optimizer" and optimizers:
        yield Fault(path, "the study lists `optimizers`, of which each trial has one; leave one of the two out")
    for condition, wanted in parameter.when.items():
        if condition != "optimizer":
            yield Fault(f"{path}.when.{condition}", "is not possible here; allowed is optimizer")
        elif not optimizers:
            yield Fault(f"{path}.when.optimizer", "can never hold: the study names no optimizers")
        elif unknown := [each for each in wanted if each not in optimizers]:
            told = f"those are {', '.join(optimizers)}"
            yield Fault(f"{path}.when.optimizer", f"{shown(unknown[0])} is not among the study's optimizers; {told}")
    declared = [
        found
        for optimizer in parameter.names("optimizer", optimizers)
        if optimizer in catalogue.optimizers
        if (found := catalogue.optimizers[optimizer].hyperparameter(name)) is not None
    ]
    known = declared or [hyperparameter for key, hyperparameter in KNOWN.items() if key == name]
    for hyperparameter in known:
        yield from _legality(path, hyperparameter, parameter)
    if not known:
        yield from _whole_faults(path, parameter)


def _legality(path: str, hyperparameter: Hyperparameter, parameter: ParameterSpec) -> Iterator[Fault]:
    """Yield what is wrong with the values of a hyperparameter that has a meaning here."""
    if parameter.min is not None and hyperparameter.choices:
        yield Fault(path, f"a range is not possible here; allowed is {hyperparameter.allowed()}")
        return
    if parameter.integer is not None and parameter.integer != hyperparameter.integer:
        told = f"{hyperparameter.name} is {hyperparameter.allowed()}, so leave it out"
        yield Fault(f"{path}.integer", f"{str(parameter.integer).lower()} given; {told}")
    ends = (".min", ".max") if parameter.min is not None else ("",) * len(parameter.listed)
    for end, value in zip(ends, parameter.listed, strict=True):
        if fault := hyperparameter.fault(hyperparameter.read(value)):
            yield Fault(f"{path}{end}", fault)


def _whole_faults(path: str, parameter: ParameterSpec) -> Iterator[Fault]:
    """Yield the ends and values that are not whole numbers, where the document asks for such."""
    if not parameter.integer:
        return
    ends = (".min", ".max") if parameter.min is not None else ("",) * len(parameter.listed)
    for end, value in zip(ends, parameter.listed, strict=True):
        if isinstance(value, bool | str) or not math.isfinite(value) or value % 1:
            yield Fault(f"{path}{end}", f"{shown(value)} given; `integer: true` wants whole numbers")
