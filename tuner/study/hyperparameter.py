"""The declaration of a hyperparameter: default, legal range, search range, and the source of that range.

Standard library only: update rules declare these without pydantic, and the server reads them back from
`tuner/optimizers/catalogue.json` without loading torch.
"""

import math
import re
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

Scaling = Literal["linear", "log", "reverse_log"]
"""`log` samples log(x) uniformly, `reverse_log` samples log(1 - x) uniformly (betas and momenta near 1)."""

Scalar = float | int | str | bool

PREFIX = "workload."
"""Before the name of a workload's parameter in a configuration: `workload.hidden`."""

_MISREAD = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


def as_number(value: Scalar) -> Scalar:
    """Return the number that a reader of YAML 1.1 took for text, such as `1e-3` or `2.5e4`: it has no dot, or no sign
    in its exponent. Any other value, all other text included, is returned as it is.
    """
    misread = isinstance(value, str) and _MISREAD.fullmatch(value) and math.isfinite(float(value))
    return float(value) if misread else value


@dataclass(frozen=True)
class Search:
    """A search range with its source. `default` ranges are swept unless the study fixes the value."""

    min: float
    max: float
    scaling: Scaling = "linear"
    swept: bool = True
    source: str = ""


@dataclass(frozen=True)
class Hyperparameter:
    """One searchable number (or choice) of an update rule or schedule.

    `low`/`high` are the legal bounds; `low_open`/`high_open` exclude the bound itself. `choices` makes it categorical.
    `structural` marks numbers that fix shapes or the order of operations, such as a history's length: like choices they
    are one plain value for all trials that are stepped together; all others are vectors with one value per trial.
    """

    name: str
    default: Scalar
    description: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    integer: bool = False
    choices: tuple[str, ...] = ()
    structural: bool = False
    treatment: bool = False
    """Belongs to a treatment, such as clipping: left out of a configuration unless the study names it."""
    search: Search | None = None

    @property
    def fixes_program(self) -> bool:
        """Whether trials that differ in it cannot be stepped together."""
        return self.structural or bool(self.choices)

    def allowed(self) -> str:
        """Describe the legal values, e.g. `a number in [0, 1)`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        noun = "an integer" if self.integer else "a number"
        left = "(" if self.low_open or self.low == -math.inf else "["
        right = ")" if self.high_open or self.high == math.inf else "]"
        return f"{noun} in {left}{self.low:g}, {self.high:g}{right}"

    def read(self, value: Scalar) -> Scalar:
        """Return a value of a study document as the rule takes it: what YAML 1.1 reads as text, and 3.0 as 3."""
        if self.choices:
            return value
        value = as_number(value)
        return int(value) if self.integer and isinstance(value, float) and value.is_integer() else value

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a value, or None if it is legal."""
        if self.choices:
            legal = value in self.choices
        elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            legal = False
        else:
            above = value > self.low if self.low_open else value >= self.low
            below = value < self.high if self.high_open else value <= self.high
            legal = above and below and (not self.integer or value % 1 == 0)
        return None if legal else f"{self.name} is {value!r}; allowed is {self.allowed()}"


@dataclass(frozen=True)
class OptimizerInfo:
    """What the catalogue says of one update rule."""

    name: str
    summary: str
    formula: str
    reference: str
    hyperparameters: tuple[Hyperparameter, ...]
    state_per_parameter: float
    elementwise: bool
    memory: str = ""
    """State in words, in copies of the parameter [m, k], e.g. `2 + 2 (m² + k²) / (m k)`."""
    needs_loss: bool = False
    """Whether the rule re-evaluates the loss inside a step; such rules are meant for full batches."""
    needs_curvature: bool = False
    """Whether it needs second derivatives of the loss."""
    averages: bool = False
    """Whether its result is an average of the parameters that it trains."""
    parameter_groups: bool = True
    """Whether some parameters may have factors of lr and weight decay of their own."""

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Find a hyperparameter by name."""
        return next((h for h in self.hyperparameters if h.name == name), None)


@dataclass(frozen=True)
class ScheduleInfo:
    """The catalogue entry of one learning-rate schedule."""

    name: str
    summary: str
    formula: str
    parameters: tuple[Hyperparameter, ...]


def to_json(info: OptimizerInfo | ScheduleInfo) -> dict[str, Any]:
    """Turn catalogue information into JSON values; infinite bounds become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and math.isinf(value):
            return None
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    cleaned: dict[str, Any] = clean(asdict(info))
    return cleaned


def hyperparameter_from_json(data: dict[str, Any]) -> Hyperparameter:
    """Read back what `to_json` wrote."""
    fields = dict(data)
    fields["low"] = -math.inf if fields["low"] is None else fields["low"]
    fields["high"] = math.inf if fields["high"] is None else fields["high"]
    fields["choices"] = tuple(fields["choices"])
    fields["search"] = Search(**fields["search"]) if fields["search"] else None
    return Hyperparameter(**fields)
