"""The study document: what a user submits, as immutable values with defaults filled in.

Only shapes and single fields are checked here; `tuner.study.check` reports faults that involve the catalogue or more
than one field, and is the entry point (`parse_study`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from tuner.study.catalogue import EXTERNAL
from tuner.study.hyperparameter import PREFIX, Hyperparameter, Scalar, Scaling
from tuner.study.micro_batch import Group, grouped
from tuner.study.parameter_groups import EVERYTHING, FACTORS, default_name
from tuner.study.reading import AnyScalar, Duration, Number, Whole, shown
from tuner.study.space import Choices, Domain, Fixed, Range
from tuner.study.webhook import checked
from tuner.study.workload_parameters import Parameter

CONDITIONS = ("optimizer", "schedule")
"""What `when` may name, besides parameters of the workload."""
MOST_GROUPS = 50
BATCH_SIZE = Hyperparameter("batch_size", 32, "examples per step", low=1, high=10**9, integer=True)


def _slug(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) or name.isdigit():
        raise ValueError(
            f"{shown(name)} given; a name has 1 to 64 of a-z 0-9 . _ -, starts with a letter or digit, "
            "and is not all digits"
        )
    return name


def _tags(tags: list[str]) -> list[str]:
    for tag in tags:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", tag):
            raise ValueError(f"{shown(tag)} given; a tag has 1 to 64 of a-z 0-9 . _ -, first a letter or digit")
    return list(dict.fromkeys(tags))


class Section(BaseModel):
    """A part of the document: unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WorkloadRef(Section):
    """Which problem to train, with its parameters."""

    name: str = Field(min_length=1, max_length=200)
    params: dict[str, AnyScalar] = Field(default_factory=dict, max_length=64)
    values: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="filled in at submission: searched parameters that are one number per trial of one stack",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Metric(Section):
    """What is compared between trials. `at` says which evaluation of a trial counts."""

    name: str = Field(default="valid_loss", min_length=1, max_length=200)
    goal: Literal["minimize", "maximize"] = "minimize"
    at: Literal["last", "best"] = "last"
    target: Number | None = None
    stop_on_target: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _target_given(self) -> "Metric":
        if self.stop_on_target and self.target is None:
            raise ValueError("stop_on_target needs a target")
        return self


class ParameterSpec(Section):
    """A value, a list of values or a range; `when` limits it to some optimizers, schedules or workload parameters."""

    value: AnyScalar | None = None
    values: list[AnyScalar] | None = Field(default=None, min_length=1, max_length=1000)
    min: Number | None = None
    max: Number | None = None
    scaling: Scaling = "linear"
    integer: bool | None = None
    when: dict[str, list[AnyScalar]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, bool | int | float | str):
            return {"value": value}
        if isinstance(value, list):
            return {"values": value}
        if not isinstance(value, dict | ParameterSpec):
            raise ValueError(f"{shown(value)} given; allowed is a value, a list of values, or min and max")
        return value

    @field_validator("when")
    @classmethod
    def _conditions(cls, when: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
        for name, wanted in when.items():
            if name not in CONDITIONS and not name.startswith(PREFIX):
                raise ValueError(f"{shown(name)} given; allowed are {', '.join(CONDITIONS)} and {PREFIX}<parameter>")
            if name in CONDITIONS and not all(isinstance(value, str) for value in wanted):
                raise ValueError(f"{name}: {shown(wanted)} given; allowed are names")
        return when

    @model_validator(mode="after")
    def _one_form(self) -> "ParameterSpec":
        is_range = self.min is not None or self.max is not None
        if (self.value is not None) + (self.values is not None) + is_range != 1:
            raise ValueError("give one of: value, values, or min with max")
        if not is_range:
            return self
        if self.min is None or self.max is None:
            raise ValueError("a range needs both min and max")
        if self.min > self.max:
            raise ValueError(f"min must not be above max; given are {self.min:g} and {self.max:g}")
        if self.scaling == "log" and self.min <= 0:
            raise ValueError(f"log scaling needs min above 0, not {self.min:g}")
        if self.scaling == "reverse_log" and self.max >= 1:
            raise ValueError(f"reverse_log scaling needs max below 1, not {self.max:g}")
        return self

    def names(self, condition: str, otherwise: Sequence[str]) -> list[str]:
        """Return the optimizers or schedules that `when` names, `otherwise` where it names none."""
        return [str(name) for name in self.when.get(condition, otherwise)]

    @property
    def listed(self) -> list[Scalar]:
        """The values that are named one by one: all of them, or the ends of a range."""
        return self.values or [one for one in (self.value, self.min, self.max) if one is not None]

    def domain(self, hyperparameter: Parameter) -> Domain:
        """Return the domain of a hyperparameter: as written, with its values as the hyperparameter reads them."""
        if self.min is not None and self.max is not None and self.min < self.max:
            integer = getattr(hyperparameter, "integer", bool(self.integer))
            return Range(self.min, self.max, self.scaling, integer)
        read = map(hyperparameter.read, self.listed)
        values = tuple({(isinstance(value, bool), value): value for value in read}.values())  # true is not 1
        return Choices(values) if len(values) > 1 else Fixed(values[0])


class OptimizerChoice(Section):
    """An optimizer to try; `overrides` replace its default ranges, e.g. `{name: muon, lr: {min: 0.001, max: 0.1}}`.

    They may also give it its own batch sizes and schedules, e.g. `{name: lbfgs, batch_size: 1024}`.
    """

    name: str
    overrides: dict[str, ParameterSpec] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "overrides" not in value:
            return {"name": value.get("name"), "overrides": {k: v for k, v in value.items() if k != "name"}}
        if not isinstance(value, dict | OptimizerChoice):
            raise ValueError(f"{shown(value)} given; allowed is a name, or a mapping with name and ranges")
        return value


class GroupSpec(Section):
    """Parameters whose names match a pattern, with factors of their own: each a value, a list of values or a range."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = ""
    match: str = Field(default=EVERYTHING, min_length=1, max_length=200, description="`fnmatch` of parameter names")
    lr_factor: ParameterSpec | None = None
    weight_decay_factor: ParameterSpec | None = None
    depth_decay: ParameterSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        match = value.get("match", EVERYTHING)
        return {**({"name": default_name(match)} if isinstance(match, str) else {}), **value}

    @model_validator(mode="after")
    def _some_factor(self) -> "GroupSpec":
        if not self.factors:
            raise ValueError(f"a group needs one of {', '.join(FACTORS)}")
        return self

    @property
    def factors(self) -> dict[str, ParameterSpec]:
        """The factors that are given, by name."""
        given = {name: getattr(self, name) for name in FACTORS}
        return {name: domain for name, domain in given.items() if domain is not None}


class Budget(Section):
    """What a trial may cost, what all of them together may, and how many may fail before any works.

    `examples_per_trial` is null only in external studies that do not give it: how long a trial is, only its code knows.
    """

    examples_per_trial: Annotated[Whole, Field(ge=1, le=10**12)] | None = 20_000
    max_failed: Whole = Field(default=10, ge=1, le=1_000_000)
    examples: Annotated[Whole, Field(ge=1, le=10**15)] | None = Field(default=None, description="of all trials")
    wall_clock: Annotated[Duration, Field(gt=0, le=10**9)] | None = Field(
        default=None, description="seconds that the study runs, from its first trial's start; pauses do not count"
    )
    device_hours: Annotated[Number, Field(gt=0, le=10**9)] | None = None
    cost: Annotated[Number, Field(gt=0, le=10**12)] | None = Field(default=None, description="in any currency")
    price_per_device_hour: Annotated[Number, Field(gt=0, le=10**9)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Budget":
        if self.cost is not None and self.price_per_device_hour is None:
            raise ValueError("cost needs price_per_device_hour")
        return self


class Retry(Section):
    """How often a trial that was lost or crashed is tried again."""

    max: Whole = Field(default=3, ge=0, le=100)


def batch_sizes(choice: OptimizerChoice, parameters: Mapping[str, ParameterSpec], budget: Budget) -> list[int]:
    """Return the batch sizes of one family that the budget allows, ascending; if it allows none, all of them."""
    parameter = choice.overrides.get("batch_size", parameters.get("batch_size"))
    listed = [BATCH_SIZE.default] if parameter is None else map(BATCH_SIZE.read, parameter.listed)
    sizes = sorted({int(size) for size in listed})
    most = budget.examples_per_trial
    return [size for size in sizes if most is None or size <= most] or sizes


class StudySpec(Section):
    """A whole study document."""

    name: Annotated[str, AfterValidator(_slug)]
    title: str = Field(default="", max_length=200)
    note: str = Field(default="", max_length=20_000, description="free text about the study")
    webhook: Annotated[str, AfterValidator(checked)] | None = Field(
        default=None, description="address that is told of the end of the study"
    )
    tags: Annotated[list[str], AfterValidator(_tags)] = Field(default_factory=list, max_length=50)
    workload: WorkloadRef
    metric: Metric = Metric()
    optimizers: list[OptimizerChoice] = Field(max_length=100)
    parameters: dict[str, ParameterSpec] = Field(default_factory=dict, max_length=100)
    enqueue: list[dict[str, AnyScalar]] = Field(
        default_factory=list, max_length=1000, description="configurations to train before any proposal"
    )
    groups: list[GroupSpec] = Field(
        default_factory=list, max_length=MOST_GROUPS, description="parameters with own factors"
    )
    method: Literal["random", "quasirandom", "tpe"] = "tpe"
    run_cap: Whole = Field(ge=1, le=1_000_000)
    parallel: Whole | None = Field(default=None, ge=1, le=100_000, description="trials in flight")
    priority: Number = Field(default=1.0, ge=1e-3, le=1e3, description="weight of its share of device time")
    budget: Budget = Budget()
    retry: Retry = Retry()
    micro_batch: Whole | None = Field(default=None, ge=1, le=1_000_000, description="examples per tick and slot")
    evaluations: Whole = Field(default=20, ge=1, le=1000, description="evaluations per trial, evenly spaced")
    report_points: Whole = Field(default=100, ge=1, le=200, description="rows of a trial's curve")
    divergence_factor: Number = Field(default=20.0, gt=1, description="scales of the loss too far above its best")
    reproducible: bool = Field(default=False, description="pin every attempt to one program")
    seed: Whole = Field(default=0, ge=0, le=2**63 - 1)

    def batch_sizes(self) -> list[int]:
        """Every batch size that a trial of this study may have."""
        return sorted({size for choice in self.optimizers for size in self.batch_sizes_of(choice)})

    def batch_sizes_of(self, choice: OptimizerChoice) -> list[int]:
        """Every batch size that a trial of one family may have: the family's own, or else the study's.

        Those above the budget are left out, since no trial could take a step with them.
        """
        return batch_sizes(choice, self.parameters, self.budget)

    def batch_sizes_left_out(self) -> list[int]:
        """The batch sizes that the document names and no trial can have, because they are above the budget."""
        if self.external:
            return []
        named = [choice.overrides.get("batch_size", self.parameters.get("batch_size")) for choice in self.optimizers]
        sizes = {
            int(BATCH_SIZE.read(size)) for parameter in named if parameter is not None for size in parameter.listed
        }
        return sorted(sizes.difference(self.batch_sizes()))

    def batch_groups(self) -> list[Group]:
        """The batch sizes with their micro-batches: the one given, or else those that follow from the sizes.

        What own code does with a batch is its own affair: an external study has one group, without sizes.
        """
        if self.external:
            return [Group(1, ())]
        sizes = self.batch_sizes()
        return grouped(sizes) if self.micro_batch is None else [Group(self.micro_batch, tuple(sizes))]

    @property
    def external(self) -> bool:
        """Whether the user's own code trains the trials, and not the engine."""
        return self.workload.name == EXTERNAL

    @property
    def learns(self) -> bool:
        """Whether the method looks at results: then more trials in flight leave it less to learn from."""
        return self.method == "tpe"

    def in_flight(self) -> int | None:
        """How many trials may be queued or running at a time; None: as many as the workers have room for."""
        if self.parallel is not None or not self.learns:
            return self.parallel
        return min(self.run_cap, max(4, self.run_cap // 8))
