"""What the server knows of the built-in workloads' parameters is what their factories take."""

import inspect
import math
from collections.abc import Mapping

import pytest

from tuner import workloads
from tuner.errors import Fault, InvalidInput
from tuner.study.catalogue import BUILT_IN_WORKLOADS
from tuner.study.hyperparameter import Hyperparameter, Scalar
from tuner.study.spec import WorkloadRef
from tuner.study.workload_parameters import (
    BUILT_IN_PARAMETERS,
    Flag,
    Parameter,
    Text,
    parameter_faults,
    read_parameters,
    signature_of,
)
from tuner.study.workload_space import workload_space_faults
from tuner.workloads import registry

DECLARED = [(name, parameter) for name, declared in BUILT_IN_PARAMETERS.items() for parameter in declared]
IDS = [f"{name}-{parameter.name}" for name, parameter in DECLARED]


def test_every_built_in_workload_is_declared_with_its_parameters_and_defaults() -> None:
    assert set(BUILT_IN_PARAMETERS) == set(BUILT_IN_WORKLOADS)
    for name, declared in BUILT_IN_PARAMETERS.items():
        taken = inspect.signature(registry._factory(name)).parameters
        wanted = {p.name: inspect.Parameter.empty if isinstance(p, Text) else p.default for p in declared}
        assert {key: value.default for key, value in taken.items()} == wanted


def faults_of(name: str, params: Mapping[str, Scalar]) -> list[Fault]:
    """What is wrong with a workload's parameters in a document that searches none of them."""
    fields = {"workload": WorkloadRef.model_construct(name=name, params=params, values=[])}
    signature = signature_of(name)
    return [*parameter_faults(signature, params), *workload_space_faults(fields, signature)]


def test_values_are_declared_as_such() -> None:
    for name in BUILT_IN_WORKLOADS:
        told = workloads.takes(name)
        assert {each["name"] for each in told["parameters"] if each["value"]} == signature_of(name).values
        assert {each["name"] for each in told["parameters"] if each["required"]} == signature_of(name).required


def wrong_values(parameter: Parameter) -> list[Scalar]:
    """Values just outside of what a parameter takes, and of other types."""
    if isinstance(parameter, Text):
        return [3]
    if isinstance(parameter, Flag):
        return ["yes", 1]
    assert isinstance(parameter, Hyperparameter)
    if parameter.choices:
        return ["float16", 3]
    beyond: list[Scalar] = [parameter.low - 1, parameter.high + 1] if parameter.integer else []
    if not parameter.integer:
        beyond = [math.nextafter(parameter.low, -math.inf), math.nextafter(parameter.high, math.inf)]
    return [*beyond, "text", True, *([2.5] if parameter.integer else [])]


@pytest.mark.parametrize(("name", "parameter"), DECLARED, ids=IDS)
def test_what_a_factory_refuses_is_refused_at_submission(name: str, parameter: Parameter) -> None:
    for value in wrong_values(parameter):
        params = read_parameters(signature_of(name), {"directory": "/nowhere", parameter.name: value})
        params = {key: item for key, item in params.items() if key in {p.name for p in BUILT_IN_PARAMETERS[name]}}
        assert [fault.field for fault in faults_of(name, params)] == [f"workload.params.{parameter.name}"]
        if not isinstance(parameter, Text) and parameter.name != "precision":  # read after the data
            with pytest.raises(InvalidInput, match=parameter.name):
                workloads.load(name, params)


@pytest.mark.parametrize(("name", "parameter"), DECLARED, ids=IDS)
def test_the_ends_of_every_range_are_accepted(name: str, parameter: Parameter) -> None:
    given: dict[str, Scalar] = {"directory": "d"} if name.endswith("images") else {}
    if name == "text-gpt" and parameter.name in ("width", "heads"):
        given["width" if parameter.name == "heads" else "heads"] = 4096 if parameter.name == "heads" else 1
    ends: list[Scalar] = [True, False] if isinstance(parameter, Flag) else ["d"]
    if isinstance(parameter, Hyperparameter):
        ends = list(parameter.choices) or [parameter.low, parameter.high]
    for value in ends:
        assert faults_of(name, {**given, parameter.name: value}) == []


def test_heads_divide_the_width_and_a_directory_is_required() -> None:
    assert [fault.field for fault in faults_of("text-gpt", {"heads": 3})] == ["workload.params.width"]
    assert [fault.field for fault in faults_of("mlp-images", {})] == ["workload.params.directory"]
    assert faults_of("mine", {"anything": 3}) == []
