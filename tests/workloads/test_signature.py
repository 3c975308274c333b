"""What a factory's signature tells: kinds, choices, what is required, which parameters are values."""

import json
from typing import Any, Literal, Optional

import pytest

import tuner
from tuner.study.hyperparameter import Hyperparameter
from tuner.study.workload_parameters import Anything, Flag, Text, signature_of
from tuner.wire.workload_info import WorkloadInfo
from tuner.workloads import Task
from tuner.workloads.signature import describe_parameters, values_of


def every_kind(
    needed: int,
    width: int = 8,
    rate: float = 0.1,
    norm: bool = True,
    word: str = "x",
    activation: Literal["relu", "gelu"] = "relu",
    perhaps: str | None = None,
    perhaps_too: Optional[int] = None,  # noqa: UP045
    either: int | str = 3,
    mixed: Literal["a", 1] = "a",
    plain=None,  # type: ignore[no-untyped-def]
    dropout: tuner.Value = 0.1,
) -> Task:
    raise NotImplementedError


def as_text(width: "int" = 8, dropout: "tuner.Value" = 0.1, other: "NoSuchName" = 3) -> Task:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


def with_more(width: int = 8, *args: Any, **others: Any) -> Task:
    raise NotImplementedError


def told(factory: Any) -> WorkloadInfo:
    """What the server hears: the message goes over the wire as JSON."""
    return WorkloadInfo.model_validate(json.loads(json.dumps({"name": "w", **describe_parameters(factory)})))


def test_every_annotation_has_its_kind() -> None:
    info = told(every_kind)
    assert {parameter.name: parameter.takes for parameter in info.parameters} == {
        "needed": "whole", "width": "whole", "rate": "number", "norm": "flag", "word": "text", "activation": "choice",
        "perhaps": "text", "perhaps_too": "whole", "either": "anything", "mixed": "anything", "plain": "anything",
        "dropout": "number",
    }  # fmt: skip
    assert not info.more


def test_the_server_makes_of_it_what_a_document_is_checked_with() -> None:
    signature = signature_of("w", {"w": told(every_kind).signature()})
    assert (signature.required, signature.values) == ({"needed"}, {"dropout"})
    kinds = {name: type(parameter) for name, parameter in signature.parameters.items()}
    assert kinds["norm"] is Flag and kinds["word"] is kinds["perhaps"] is Text and kinds["plain"] is Anything
    width, activation = signature.parameters["width"], signature.parameters["activation"]
    assert isinstance(width, Hyperparameter) and isinstance(activation, Hyperparameter)
    assert width.fault(2.5) and not width.fault(-3) and width.read("1e3") == 1000
    assert activation.fault("tanh") and not activation.fault("gelu")
    assert signature.find("unknown") is None


def test_a_factory_that_takes_more_takes_anything() -> None:
    signature = told(with_more).signature()
    assert list(signature.parameters) == ["width"]
    assert isinstance(signature.find("unknown"), Anything)


def test_an_older_worker_tells_names_only() -> None:
    signature = WorkloadInfo.model_validate({"name": "w", "description": ""}).signature()
    assert isinstance(signature.find("anything"), Anything) and not signature.required


@pytest.mark.parametrize(("factory", "values"), [(every_kind, {"dropout"}), (with_more, set())])
def test_values_are_known_by_their_annotation(factory: Any, values: set[str]) -> None:
    assert values_of(factory) == values


def test_an_annotation_that_cannot_be_resolved_hides_no_other() -> None:
    found = {parameter.name: (parameter.takes, parameter.value) for parameter in told(as_text).parameters}
    assert found == {"width": ("whole", False), "dropout": ("number", True), "other": ("anything", False)}
