"""From a study document to the search space of each of its families."""

from collections.abc import Mapping

from tuner.study.catalogue import Catalogue
from tuner.study.external import external_families
from tuner.study.hyperparameter import PREFIX, Hyperparameter, Scalar
from tuner.study.parameter_groups import FACTORS, GROUP
from tuner.study.space import Choices, Domain, FamilySpace, Fixed, Range
from tuner.study.spec import OptimizerChoice, ParameterSpec, StudySpec
from tuner.study.workload_parameters import Anything


def schedule_parameters(catalogue: Catalogue) -> dict[str, Hyperparameter]:
    """The parameters of all schedules."""
    return {p.name: p for info in catalogue.schedules.values() for p in info.parameters}


def families(spec: StudySpec, catalogue: Catalogue) -> list[FamilySpace]:
    """Return one space per optimizer, in the document's order.

    A range given with the optimizer overrides one in `parameters`, which overrides the catalogue's.
    """
    if spec.external:
        return external_families(spec, catalogue)
    return [_family(spec, catalogue, i) for i in range(len(spec.optimizers))]


def _family(spec: StudySpec, catalogue: Catalogue, index: int) -> FamilySpace:
    choice = spec.optimizers[index]
    domains: dict[str, Domain] = {}
    schedules_of: dict[str, frozenset[str]] = {}
    for hyperparameter in catalogue.optimizers[choice.name].hyperparameters:
        name = hyperparameter.name
        shared = _applying(spec, name, choice.name)
        if name in choice.overrides:
            domains[name] = choice.overrides[name].domain(hyperparameter)
        elif shared is not None:
            domains[name] = shared.domain(hyperparameter)
            if "schedule" in shared.when:
                schedules_of[name] = frozenset(shared.names("schedule", ()))
        elif not hyperparameter.treatment:
            domains[name] = _default(hyperparameter)
    domains["batch_size"] = _batch_size(spec.batch_sizes_of(choice))
    chosen = chosen_schedules(choice, spec.parameters, catalogue)
    domains["schedule"] = Choices(tuple(chosen)) if len(chosen) > 1 else Fixed(chosen[0])
    for name, hyperparameter in schedule_parameters(catalogue).items():
        shared = _applying(spec, name, choice.name)
        users = {s for s in chosen if any(p.name == name for p in catalogue.schedules[s].parameters)}
        if shared is not None and (users := users & set(shared.names("schedule", sorted(users)))):
            domains[name] = shared.domain(hyperparameter)
            schedules_of[name] = frozenset(users)
    defaults = {s: {p.name: p.default for p in catalogue.schedules[s].parameters} for s in sorted(chosen)}
    _add_groups(spec, domains)
    conditions = _add_workload(spec, choice, domains)
    return FamilySpace(choice.name, domains, schedules_of, defaults, conditions)


def _add_groups(spec: StudySpec, domains: dict[str, Domain]) -> None:
    """Add the patterns of the parameter groups and the domains of their factors, in the document's order."""
    for group in spec.groups:
        domains[f"{GROUP}{group.name}.match"] = Fixed(group.match)
        for name, factor in group.factors.items():
            domains[f"{GROUP}{group.name}.{name}"] = factor.domain(FACTORS[name])


def _add_workload(
    spec: StudySpec, choice: OptimizerChoice, domains: dict[str, Domain]
) -> dict[str, dict[str, tuple[Scalar, ...]]]:
    """Add the domains of the workload's parameters, in a fixed order; return their conditions."""
    conditions: dict[str, dict[str, tuple[Scalar, ...]]] = {}
    for name in sorted(key for key in {**spec.parameters, **choice.overrides} if key.startswith(PREFIX)):
        given = choice.overrides.get(name) or _applying(spec, name, choice.name)
        if given is None:
            continue
        domains[name] = given.domain(Anything(name))
        if others := {other: tuple(wanted) for other, wanted in given.when.items() if other != "optimizer"}:
            conditions[name] = others
    return conditions


def chosen_schedules(
    choice: OptimizerChoice, parameters: Mapping[str, ParameterSpec], catalogue: Catalogue
) -> list[str]:
    """Return the schedules that an optimizer's trials may have: its own, or else the study's."""
    given = choice.overrides.get("schedule", parameters.get("schedule"))
    domain = Fixed("constant") if given is None else given.domain(schedule_choice(catalogue))
    return [str(v) for v in (domain.values if isinstance(domain, Choices) else [getattr(domain, "value", "")])]


def schedule_choice(catalogue: Catalogue) -> Hyperparameter:
    """The choice among the schedules, declared as hyperparameters are."""
    return Hyperparameter("schedule", "constant", "of the learning rate", choices=tuple(catalogue.schedules))


def _applying(spec: StudySpec, name: str, optimizer: str) -> ParameterSpec | None:
    parameter = spec.parameters.get(name)
    if parameter is None or optimizer not in parameter.names("optimizer", [optimizer]):
        return None
    return parameter


def _default(hyperparameter: Hyperparameter) -> Domain:
    search = hyperparameter.search
    if search is None or not search.swept:
        return Fixed(hyperparameter.default)
    return Range(search.min, search.max, search.scaling, hyperparameter.integer)


def _batch_size(sizes: list[int]) -> Domain:
    return Fixed(sizes[0]) if len(sizes) == 1 else Choices(tuple(sizes))
