"""Configurations that a user gives: checked as a document is, and completed.

- The study's search ranges need not contain a value; the legal ranges must.
- What is left out is what the document fixes, or else the documented default of the optimizer, the schedule or the
  built-in workload. The optimizer may be left out where the study has one.
- A batch size of its own is trained in micro-batches like any other, so a `micro_batch` that the document asks for must
  divide it. What the document fixes of the workload, a configuration cannot change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuner.errors import Fault, InvalidInput
from tuner.study.catalogue import Catalogue
from tuner.study.external import KNOWN
from tuner.study.families import families, schedule_choice
from tuner.study.hyperparameter import PREFIX, Hyperparameter, Scalar
from tuner.study.micro_batch import Group
from tuner.study.parameter_groups import FACTORS, GROUP
from tuner.study.reading import shown
from tuner.study.space import Choices, Domain, FamilySpace, Fixed, Range
from tuner.study.spec import BATCH_SIZE, StudySpec
from tuner.study.suggestion import hint
from tuner.study.workload_parameters import BUILT_IN_PARAMETERS, Anything, Parameter, Signature


@dataclass(frozen=True)
class Given:
    """A whole configuration, and the family that learns from it."""

    family: str
    params: dict[str, Scalar]


@dataclass(frozen=True)
class Entry:
    """What a configuration may hold under a name; where it is `needed` and left out, `default` is put in."""

    parameter: Parameter
    default: Scalar | None = None
    needed: bool = True


def enqueue_faults(spec: StudySpec, catalogue: Catalogue, signature: Signature) -> Iterator[Fault]:
    """Yield the faults of the configurations that a document enqueues."""
    if len(spec.enqueue) > spec.run_cap:
        yield Fault("enqueue", f"{len(spec.enqueue)} configurations given; run_cap allows {spec.run_cap} trials")
    spaces = families(spec, catalogue) if spec.enqueue else []
    for index, configuration in enumerate(spec.enqueue):
        try:
            complete(configuration, spec, spaces, catalogue, signature, path=f"enqueue[{index}]")
        except InvalidInput as error:
            yield from error.faults


def complete(
    given: Mapping[str, Scalar],
    spec: StudySpec,
    spaces: Sequence[FamilySpace],
    catalogue: Catalogue,
    signature: Signature,
    path: str = "params",
) -> Given:
    """Return the whole configuration; `spaces` are those of the study's families.

    Raises:
        InvalidInput: every fault, by field.
    """
    space = _space(given, spaces, path)
    entries = _entries(given, spec, space, catalogue, signature)
    values: dict[str, Scalar] = {"optimizer": space.optimizer} if space.named else {}
    faults = list(_read(given, values, entries, space, spec, path))
    if not faults:
        faults += _fill(values, entries, space, path)
    if not faults and not spec.external:
        faults += _engine_faults(values, spec, path)
    if faults:
        raise InvalidInput(faults)
    return Given(space.optimizer, values)


def no_group(size: int, groups: Sequence[Group], path: str = "params") -> InvalidInput:
    """Say that a batch size cannot be trained beside the study's own."""
    known = ", ".join(str(group.micro_batch * group.per_tick) for group in groups)
    told = f"{size} given; allowed beside this study's batch sizes are multiples of one of {known}"
    return InvalidInput([Fault(f"{path}.batch_size", told)])


def _space(given: Mapping[str, Scalar], spaces: Sequence[FamilySpace], path: str) -> FamilySpace:
    names = [space.optimizer for space in spaces]
    if len(spaces) == 1 and (not spaces[0].named or "optimizer" not in given):
        return spaces[0]
    told = f"the study's are {', '.join(names)}"
    if "optimizer" not in given:
        raise InvalidInput([Fault(f"{path}.optimizer", f"is missing; {told}")])
    name = given["optimizer"]
    if name not in names:
        raise InvalidInput([Fault(f"{path}.optimizer", f"{shown(name)} given; {hint(str(name), names, told)}")])
    return spaces[names.index(str(name))]


def _entries(
    given: Mapping[str, Scalar], spec: StudySpec, space: FamilySpace, catalogue: Catalogue, signature: Signature
) -> dict[str, Entry]:
    """Return what a configuration of a family may hold, besides its optimizer."""
    info = catalogue.optimizers.get(space.optimizer) if space.named else None
    own = {h.name: h for h in info.hyperparameters} if info is not None else {}
    if spec.external:
        names = {**own, **space.domains}
        others = {name: Entry(KNOWN.get(name) or Anything(name), _fixed(space, name)) for name in names}
        return others | {
            name: Entry(h, _fixed(space, name, h.default), needed=name in space.domains) for name, h in own.items()
        }
    schedule_default = _usual(space, "schedule", "constant")
    schedule = str(given.get("schedule", schedule_default))
    shape = catalogue.schedules.get(schedule)

    def entry(name: str, parameter: Parameter, default: Scalar, needed: bool) -> Entry:
        applies = name not in space.schedules_of or schedule in space.schedules_of[name]
        return Entry(parameter, _fixed(space, name, default) if applies else default, needed and applies)

    entries = {name: entry(name, h, h.default, name in space.domains) for name, h in own.items()}
    if shape is not None:  # all of its parameters are needed, also those that the study sets for other schedules
        entries |= {p.name: Entry(p, entry(p.name, p, p.default, True).default) for p in shape.parameters}
    entries["batch_size"] = Entry(BATCH_SIZE, _usual(space, "batch_size", BATCH_SIZE.default))
    entries["schedule"] = Entry(schedule_choice(catalogue), schedule_default)
    return entries | _group_entries(space) | _workload_entries(spec, space, signature)


def _group_entries(space: FamilySpace) -> dict[str, Entry]:
    """Return the patterns of the parameter groups, which the document fixes, and their factors."""
    found = {}
    for key, domain in space.domains.items():
        name = key.rpartition(".")[2]
        if key.startswith(GROUP) and name in FACTORS:
            found[key] = Entry(FACTORS[name], _fixed(space, key, FACTORS[name].default))
        elif key.startswith(GROUP) and isinstance(domain, Fixed):
            pattern = str(domain.value)
            found[key] = Entry(Hyperparameter(name, pattern, "", choices=(pattern,)), pattern)
    return found


def _workload_entries(spec: StudySpec, space: FamilySpace, signature: Signature) -> dict[str, Entry]:
    built_in = {p.name: getattr(p, "default", None) for p in BUILT_IN_PARAMETERS.get(spec.workload.name, ())}
    found = {}
    for key in space.domains:
        if key.startswith(PREFIX):
            name = key.removeprefix(PREFIX)
            default = _fixed(space, key, built_in.get(name))
            needed = default is not None or name in signature.required or name in spec.workload.values
            found[key] = Entry(signature.find(name) or Anything(name), default, needed)
    return found


def _fixed(space: FamilySpace, name: str, otherwise: Scalar | None = None) -> Scalar | None:
    """Return the one value that the study has for a name, or else what is put in its place."""
    domain = space.domains.get(name)
    return domain.value if isinstance(domain, Fixed) else otherwise


def _usual(space: FamilySpace, name: str, default: Scalar) -> Scalar:
    """Return a default where it is among the study's values, and else the first of them."""
    domain = space.domains[name]
    listed = domain.values if isinstance(domain, Choices) else (_fixed(space, name, default) or default,)
    return default if default in listed else listed[0]


def _read(
    given: Mapping[str, Scalar],
    values: dict[str, Scalar],
    entries: Mapping[str, Entry],
    space: FamilySpace,
    spec: StudySpec,
    path: str,
) -> Iterator[Fault]:
    """Read what is given into `values`."""
    for name, value in given.items():
        if name == "optimizer" and space.named:
            continue
        if name not in entries:
            yield Fault(f"{path}.{name}", _unknown(name, entries, space, spec))
            continue
        parameter = entries[name].parameter
        values[name] = parameter.read(value)
        if fault := parameter.fault(values[name]) or _kind_fault(space.domains.get(name), values[name]):
            yield Fault(f"{path}.{name}", fault)
    for name in values:
        if not space.applies(name, {**_defaults(entries), **values}):
            yield Fault(f"{path}.{name}", "does not apply beside the other values, by its `when` in the document")


def _defaults(entries: Mapping[str, Entry]) -> dict[str, Scalar]:
    return {name: entry.default for name, entry in entries.items() if entry.default is not None}


def _unknown(name: str, entries: Mapping[str, Entry], space: FamilySpace, spec: StudySpec) -> str:
    if name.startswith(PREFIX) and not spec.external:
        return "is not searched by the study, whose document fixes its workload; clone the study to have another"
    return f"unknown; {hint(name, list(entries), f'{space.optimizer} takes ' + ', '.join(entries))}"


def _kind_fault(domain: Domain | None, value: Scalar) -> str | None:
    """Return what is wrong with a value of which only the document says that it is a number, or a whole one."""
    if not isinstance(domain, Range):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not (domain.integer and float(value) % 1):
        return None
    return f"{shown(value)} given; allowed is {'a whole number' if domain.integer else 'a number'}"


def _fill(values: dict[str, Scalar], entries: Mapping[str, Entry], space: FamilySpace, path: str) -> Iterator[Fault]:
    """Put in what was left out and applies; yield what is needed and has no default."""
    left = {name: entry for name, entry in entries.items() if entry.needed and name not in values}
    while ready := [name for name in left if space.applies(name, values)]:
        for name in ready:
            default = left.pop(name).default
            if default is None:
                yield Fault(f"{path}.{name}", "is missing; no default is known for it")
            else:
                values[name] = default


def _engine_faults(values: Mapping[str, Scalar], spec: StudySpec, path: str) -> Iterator[Fault]:
    """Yield what the engine cannot train."""
    size, most = int(values["batch_size"]), spec.budget.examples_per_trial
    if most is not None and size > most:
        told = f"{size} given; the budget is {most} examples per trial, so it could not take a step"
        yield Fault(f"{path}.batch_size", told)
    if spec.micro_batch is not None and size % spec.micro_batch:
        yield Fault(
            f"{path}.batch_size", f"{size} given; the study's micro_batch {spec.micro_batch} does not divide it"
        )
    if spec.workload.name == "text-gpt":
        shape = {"width": 64, "heads": 4, **spec.workload.params}
        shape |= {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
        if int(shape["width"]) % int(shape["heads"]):
            told = f"width {shape['width']} is no multiple of heads, {shape['heads']}"
            yield Fault(f"{path}.{PREFIX}width", told)
