"""The parameters of the built-in workloads, so that they are checked at submission and not by the first trial.

Stated for the server, which loads no torch; a test holds them equal to the workloads' own signatures and checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import Fault
from tuner.study.hyperparameter import Hyperparameter, Scalar
from tuner.study.reading import shown
from tuner.study.suggestion import hint


@dataclass(frozen=True)
class Flag:
    """A parameter that is true or false."""

    name: str
    default: bool


@dataclass(frozen=True)
class Text:
    """A parameter that is text and has to be given."""

    name: str


Parameter = Hyperparameter | Flag | Text


def _whole(name: str, default: int, low: int, high: int) -> Parameter:
    return Hyperparameter(name, default, "", low, high, integer=True)


def _number(name: str, default: float, low: float, high: float) -> Parameter:
    return Hyperparameter(name, default, "", low, high)


_PRECISION = Hyperparameter("precision", "float32", "", choices=("float32", "tf32", "bf16"))
_EXAMPLES = _whole("examples", 8192, 1, 10_000_000)

BUILT_IN_PARAMETERS: Mapping[str, tuple[Parameter, ...]] = {
    "digits-autoencoder": (_whole("hidden", 32, 1, 4096), _whole("code", 8, 1, 4096)),
    "digits-cnn": (_whole("channels", 8, 1, 512), Flag("batch_norm", True)),
    "digits-mlp": (_whole("hidden", 32, 1, 4096),),
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


def read_parameters(workload: str, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a workload's parameters as it takes them: where a built-in one wants a number, text such as `1e-3` is one.

    What an own workload wants is not known here; its parameters stay as they are given.
    """
    declared = {parameter.name: parameter for parameter in BUILT_IN_PARAMETERS.get(workload, ())}
    read = dict(params)
    for name, value in params.items():
        parameter = declared.get(name)
        if isinstance(parameter, Hyperparameter):
            read[name] = parameter.read(value)
    return read


def parameter_faults(workload: str, params: Mapping[str, Scalar]) -> list[Fault]:
    """Return what is wrong with the (read) parameters of a built-in workload; nothing for others."""
    if workload not in BUILT_IN_PARAMETERS:
        return []
    declared = {parameter.name: parameter for parameter in BUILT_IN_PARAMETERS[workload]}
    takes = f"{workload} takes {', '.join(declared) or 'no parameters'}"
    faults = []
    for name, value in params.items():
        if name not in declared:
            faults.append(Fault(f"workload.params.{name}", f"is unknown; {hint(name, declared, takes)}"))
        elif fault := _fault(declared[name], value):
            faults.append(Fault(f"workload.params.{name}", fault))
    for name, parameter in declared.items():
        if isinstance(parameter, Text) and name not in params:
            faults.append(Fault(f"workload.params.{name}", f"is missing; {takes}"))
    if workload == "text-gpt" and not faults:
        width, heads = int(params.get("width", 64)), int(params.get("heads", 4))
        if width % heads:
            faults.append(Fault("workload.params.width", f"is {width}; allowed are multiples of heads, {heads}"))
    return faults


def _fault(parameter: Parameter, value: Scalar) -> str | None:
    if isinstance(parameter, Flag):
        return None if isinstance(value, bool) else f"is {shown(value)}; allowed are true and false"
    if isinstance(parameter, Text):
        return None if isinstance(value, str) else f"is {shown(value)}; allowed is text"
    return parameter.fault(value)
