"""What a worker tells of the workloads that it can run, and what the server makes of it."""

import math
from typing import Literal

from pydantic import Field

from tuner.study.hyperparameter import Hyperparameter
from tuner.study.workload_parameters import Anything, Flag, Parameter, Signature, Text
from tuner.wire.message import Message
from tuner.wire.message import Text as Words


class ParameterInfo(Message):
    """A parameter of a workload."""

    name: Words = Field(min_length=1, max_length=200)
    takes: Literal["whole", "number", "flag", "text", "choice", "anything"] = "anything"
    choices: list[Words] = Field(default_factory=list, max_length=1000)
    required: bool = Field(default=False, description="it has no default")
    value: bool = Field(default=False, description="annotated `tuner.Value`: one number per trial of one stack")


class WorkloadInfo(Message):
    """A workload that the worker can run."""

    name: Words = Field(min_length=1, max_length=200)
    description: Words = ""
    parameters: list[ParameterInfo] = Field(default_factory=list, max_length=1000)
    more: bool = Field(default=True, description="whether it takes parameters that are not listed")

    def signature(self) -> Signature:
        """Return what the workload takes."""
        return Signature(
            self.name,
            {parameter.name: _parameter(parameter) for parameter in self.parameters},
            frozenset(parameter.name for parameter in self.parameters if parameter.required),
            frozenset(parameter.name for parameter in self.parameters if parameter.value),
            self.more,
        )


def _parameter(info: ParameterInfo) -> Parameter:
    match info.takes:
        case "flag":
            return Flag(info.name)
        case "text":
            return Text(info.name)
        case "whole" | "number":
            return Hyperparameter(info.name, 0, "", -math.inf, math.inf, integer=info.takes == "whole")
        case "choice" if info.choices:
            return Hyperparameter(info.name, info.choices[0], "", choices=tuple(info.choices))
    return Anything(info.name)
