"""The parameters of workloads, so that they are checked at submission and not by the first trial.

Those of the built-in workloads are stated here for the server, which loads no torch; a test holds them equal to the
workloads' own signatures and checks. Those of a user's workloads are as its workers told (`signature_of`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.errors import Fault
from tuner.study.hyperparameter import Hyperparameter, Scalar
from tuner.study.reading import shown
from tuner.study.suggestion import hint


@dataclass(frozen=True)
class Flag:
    """A parameter that is true or false."""

    name: str
    default: bool | None = None

    def read(self, value: Scalar) -> Scalar:
        """Return a value of a document as it is."""
        return value

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a value, or None."""
        return None if isinstance(value, bool) else f"is {shown(value)}; allowed are true and false"


@dataclass(frozen=True)
class Text:
    """A parameter that is text."""

    name: str

    def read(self, value: Scalar) -> Scalar:
        """Return a value of a document as it is."""
        return value

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a value, or None."""
        return None if isinstance(value, str) else f"is {shown(value)}; allowed is text"


@dataclass(frozen=True)
class Anything:
    """A parameter of a user's workload whose type is not known here; only the workload itself can check it."""

    name: str

    def read(self, value: Scalar) -> Scalar:
        """Return a value of a document as it is."""
        return value

    def fault(self, value: object) -> str | None:
        """Find nothing wrong."""
        return None


Parameter = Hyperparameter | Flag | Text | Anything


@dataclass(frozen=True)
class Signature:
    """What a workload takes, as far as it is known.

    `required` have no default; `values` are annotated `tuner.Value`: one number per trial of one stack; `more`: others
    than those `parameters` may be given too.
    """

    workload: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    more: bool = False

    def find(self, name: str) -> Parameter | None:
        """Return a parameter; None if the workload does not take it."""
        return self.parameters.get(name, Anything(name) if self.more else None)

    def unknown(self, name: str) -> str:
        """Say that the workload does not take a parameter, and what it takes or what may have been meant."""
        return f"is unknown; {hint(name, self.parameters, self.takes)}"

    @property
    def takes(self) -> str:
        """What the workload takes, in words."""
        return f"{self.workload} takes {', '.join(self.parameters) or 'no parameters'}"


def _whole(name: str, default: int, low: int, high: int) -> Parameter:
    return Hyperparameter(name, default, "", low, high, integer=True)


def _number(name: str, default: float, low: float, high: float) -> Parameter:
    return Hyperparameter(name, default, "", low, high)


_PRECISION = Hyperparameter("precision", "float32", "", choices=("float32", "tf32", "bf16"))
_EXAMPLES = _whole("examples", 8192, 1, 10_000_000)

BUILT_IN_PARAMETERS: Mapping[str, tuple[Parameter, ...]] = {
    "digits-autoencoder": (_whole("hidden", 32, 1, 4096), _whole("code", 8, 1, 4096)),
    "digits-cnn": (_whole("channels", 8, 1, 512), Flag("batch_norm", True)),
    "digits-mlp": (_whole("hidden", 32, 1, 4096), _number("dropout", 0.0, 0, 1)),
    "linear-regression": (
        _whole("dimensions", 50, 1, 10_000),
        _number("noise", 1.0, 0, 1e6),
        _number("decay", 0.0, 0, 10),
        _EXAMPLES,
    ),
    "logistic-regression": (),
    "mlp-images": (Text("directory"), _whole("hidden", 256, 1, 16_384), _whole("layers", 1, 1, 16), _PRECISION),
    "noisy-quadratic": (
        _whole("dimensions", 100, 1, 10_000),
        _number("noise", 1.0, 0, 1e6),
        _number("start", 1.0, -1e6, 1e6),
        _EXAMPLES,
    ),
    "resnet-images": (Text("directory"), _whole("blocks", 1, 1, 20), _whole("channels", 16, 1, 512), _PRECISION),
    "rosenbrock": (_whole("dimensions", 2, 2, 10_000),),
    "text-gpt": (
        _whole("layers", 2, 1, 48),
        _whole("heads", 4, 1, 64),
        _whole("width", 64, 1, 4096),
        _whole("context", 64, 1, 4096),
        _number("dropout", 0.0, 0, 1),
        _PRECISION,
    ),
}


BUILT_IN_VALUES: Mapping[str, frozenset[str]] = {
    "digits-mlp": frozenset({"dropout"}),
    "text-gpt": frozenset({"dropout"}),
}
"""Parameters of the built-in workloads that are annotated `tuner.Value`."""


def signature_of(workload: str, told: Mapping[str, Signature] | None = None) -> Signature:
    """Return what a workload takes; `told` are the signatures of users' workloads, as workers told them."""
    declared = BUILT_IN_PARAMETERS.get(workload)
    if declared is None:
        return (told or {}).get(workload) or Signature(workload, more=True)
    required = frozenset(p.name for p in declared if isinstance(p, Text))
    values = BUILT_IN_VALUES.get(workload, frozenset())
    return Signature(workload, {p.name: p for p in declared}, required, values)


def read_parameters(signature: Signature, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a workload's parameters as it takes them: where it wants a number, text such as `1e-3` is one."""
    found = {name: signature.find(name) for name in params}
    return {name: value if (one := found[name]) is None else one.read(value) for name, value in params.items()}


def parameter_faults(signature: Signature, params: Mapping[str, Scalar]) -> list[Fault]:
    """Return what is wrong with the (read) parameters that a document gives a workload."""
    faults = []
    for name, value in params.items():
        parameter = signature.find(name)
        if parameter is None:
            faults.append(Fault(f"workload.params.{name}", signature.unknown(name)))
        elif fault := parameter.fault(value):
            faults.append(Fault(f"workload.params.{name}", fault))
    return faults
