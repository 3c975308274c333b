"""From a study document to the search space of each of its families."""

from tuner.study.catalogue import Catalogue
from tuner.study.hyperparameter import Hyperparameter
from tuner.study.space import Choices, Domain, FamilySpace, Fixed, Range
from tuner.study.spec import ParameterSpec, StudySpec


def schedule_parameters(catalogue: Catalogue) -> dict[str, Hyperparameter]:
    """The parameters of all schedules."""
    return {p.name: p for info in catalogue.schedules.values() for p in info.parameters}


def families(spec: StudySpec, catalogue: Catalogue) -> list[FamilySpace]:
    """Return one space per optimizer, in the document's order.

    A range given with the optimizer overrides one in `parameters`, which overrides the catalogue's.
    """
    return [_family(spec, catalogue, i) for i in range(len(spec.optimizers))]


def _family(spec: StudySpec, catalogue: Catalogue, index: int) -> FamilySpace:
    choice = spec.optimizers[index]
    domains: dict[str, Domain] = {}
    schedules_of: dict[str, frozenset[str]] = {}
    for hyperparameter in catalogue.optimizers[choice.name].hyperparameters:
        name = hyperparameter.name
        shared = _applying(spec, name, choice.name)
        if name in choice.overrides:
            domains[name] = choice.overrides[name].domain
        elif shared is not None:
            domains[name] = shared.domain
            if "schedule" in shared.when:
                schedules_of[name] = frozenset(shared.when["schedule"])
        elif not hyperparameter.treatment:
            domains[name] = _default(hyperparameter)
    domains["batch_size"] = _batch_size(spec.batch_sizes_of(choice))
    given = choice.overrides.get("schedule", spec.parameters.get("schedule"))
    schedule = Fixed("constant") if given is None else given.domain
    domains["schedule"] = schedule
    chosen = {str(v) for v in (schedule.values if isinstance(schedule, Choices) else [getattr(schedule, "value", "")])}
    for name in schedule_parameters(catalogue):
        shared = _applying(spec, name, choice.name)
        users = {s for s in chosen if any(p.name == name for p in catalogue.schedules[s].parameters)}
        if shared is not None and (users := users & set(shared.when.get("schedule", users))):
            domains[name] = shared.domain
            schedules_of[name] = frozenset(users)
    defaults = {s: {p.name: p.default for p in catalogue.schedules[s].parameters} for s in sorted(chosen)}
    return FamilySpace(choice.name, domains, schedules_of, defaults)


def _applying(spec: StudySpec, name: str, optimizer: str) -> ParameterSpec | None:
    parameter = spec.parameters.get(name)
    if parameter is None or optimizer not in parameter.when.get("optimizer", [optimizer]):
        return None
    return parameter


def _default(hyperparameter: Hyperparameter) -> Domain:
    search = hyperparameter.search
    if search is None or not search.swept:
        return Fixed(hyperparameter.default)
    return Range(search.min, search.max, search.scaling, hyperparameter.integer)


def _batch_size(sizes: list[int]) -> Domain:
    return Fixed(sizes[0]) if len(sizes) == 1 else Choices(tuple(sizes))
