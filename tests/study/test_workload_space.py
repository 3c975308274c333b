"""Domains for a workload's parameters: what is accepted, what is refused, and the configurations that follow."""

import json
from typing import Any

import pytest
from study_documents import study_document

from tuner.errors import InvalidInput
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Hyperparameter, Scalar
from tuner.study.space import Choices, Fixed, Range
from tuner.study.spec import StudySpec
from tuner.study.workload_parameters import Anything, Flag, Signature, Text

CATALOGUE = load_catalogue()
MINE = Signature(
    "mine",
    {
        "width": Hyperparameter("width", 0, "", integer=True),
        "rate": Hyperparameter("rate", 0, ""),
        "activation": Hyperparameter("activation", "relu", "", choices=("relu", "gelu", "none")),
        "norm": Flag("norm"),
        "path": Text("path"),
        "thing": Anything("thing"),
        "needed": Hyperparameter("needed", 0, "", integer=True),
        "smoothing": Hyperparameter("smoothing", 0, ""),
    },
    frozenset({"needed"}),
    frozenset({"smoothing"}),
)


def parsed(workload: Any = "digits-mlp", **changes: Any) -> StudySpec:
    document = study_document(workload=workload, **changes)
    return parse_study(document, CATALOGUE, ["digits-mlp", "text-gpt", "mine", "other"], {"mine": MINE})


def mine(parameters: dict[str, Any], **changes: Any) -> StudySpec:
    workload = {"name": "mine", "params": {"needed": 3}}
    return parsed(workload, parameters={f"workload.{name}": item for name, item in parameters.items()}, **changes)


def faults(workload: Any = "digits-mlp", **changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parsed(workload, **changes)
    return {fault.field: fault.message for fault in caught.value.faults}


def faults_of_mine(parameters: dict[str, Any], **changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        mine(parameters, **changes)
    return {fault.field: fault.message for fault in caught.value.faults}


def stored(spec: StudySpec) -> StudySpec:
    """The document as a restarted server reads it: it asks no worker."""
    return StudySpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"), sort_keys=True)))


def test_domains_are_read_as_the_workload_takes_them_and_stay_so() -> None:
    document = {
        "width": {"min": 16, "max": 128, "scaling": "log"},
        "rate": {"values": ["1e-3", 1]},
        "activation": {"values": ["relu", "gelu"]},
        "norm": [True, False],
        "smoothing": {"min": 0, "max": 0.2},
        "thing": "1e-3",
    }
    spec = mine(document)
    assert spec.workload.values == ["smoothing"]
    for found in (spec, stored(spec)):
        for family in families(found, CATALOGUE):
            own = {name: domain for name, domain in family.domains.items() if name.startswith("workload.")}
            assert own == {
                "workload.activation": Choices(("relu", "gelu")),
                "workload.norm": Choices((True, False)),
                "workload.rate": Choices((0.001, 1)),
                "workload.smoothing": Range(0, 0.2),
                "workload.thing": Fixed("1e-3"),
                "workload.width": Range(16, 128, "log", integer=True),
            }
            assert list(own) == sorted(own)  # the order is that of random draws


def test_what_a_study_searches_elsewhere_is_not_changed_by_it() -> None:
    before = families(parsed(), CATALOGUE)
    with_it = families(parsed(parameters={"batch_size": {"values": [16, 32]}, "workload.hidden": [8, 16]}), CATALOGUE)
    for one, other in zip(before, with_it, strict=True):
        assert list(other.domains)[:-1] == list(one.domains)
        assert list(other.domains)[-1] == "workload.hidden"


@pytest.mark.parametrize(
    ("domains", "field", "told"),
    [
        ({"hiden": [8, 16]}, "hiden", "did you mean 'hidden'"),
        ({"depth": [8, 16]}, "depth", "digits-mlp takes hidden, dropout"),
        ({"hidden": [8, 0]}, "hidden", "an integer in [1, 4096]"),
        ({"hidden": [8, "wide"]}, "hidden", "an integer in [1, 4096]"),
        ({"hidden": {"min": 8.5, "max": 16}}, "hidden.min", "8.5"),
        ({"hidden": {"min": 8, "max": 9000}}, "hidden.max", "9000"),
        ({"dropout": {"min": 0, "max": 1.5}}, "dropout.max", "1.5"),
        ({"hidden": {"min": 8, "max": 16, "integer": False}}, "hidden.integer", "leave"),
        ({"hidden": {"min": 0, "max": 16, "scaling": "log"}}, "hidden", "log scaling"),
    ],
)
def test_a_wrong_domain_is_refused_where_it_stands(domains: dict[str, Any], field: str, told: str) -> None:
    found = faults(parameters={f"workload.{name}": domain for name, domain in domains.items()})
    assert list(found) == [f"parameters.workload.{field}"] and told in found[f"parameters.workload.{field}"]


@pytest.mark.parametrize(
    ("condition", "others", "told"),
    [
        ({"workload.dropout": [0.1]}, {"dropout": [0.1]}, "circle"),
        ({"workload.hidden": [8]}, {}, "not among the workload's searched parameters"),
        ({"workload.hidden": [32]}, {"hidden": [8, 16]}, "32 can never hold; its values are 8, 16"),
        ({"workload.hidden": [8]}, {"hidden": {"min": 8, "max": 16}}, "needs one with `values`"),
        ({"optimizer": ["lion"]}, {}, "not among the study's optimizers"),
        ({"schedule": ["cosine"]}, {}, "never hold"),
        ({"method": ["tpe"]}, {}, "'method' given; allowed are optimizer, schedule and workload.<parameter>"),
        ({"optimizer": [3]}, {}, "allowed are names"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(condition: dict[str, Any], others: dict[str, Any], told: str) -> None:
    domains = {**others, "dropout": {"value": 0.1, "when": condition}}
    found = faults(parameters={f"workload.{name}": domain for name, domain in domains.items()})
    (name,) = condition
    fields = [f"parameters.workload.dropout.when{end}" for end in ("", f".{name}")]
    assert len(found) == 1 and any(told in found.get(field, "") for field in fields)


def test_only_workload_parameters_depend_on_workload_parameters() -> None:
    domains = {"lr": {"value": 1, "when": {"workload.hidden": [8]}}, "workload.hidden": [8, 16]}
    found = faults(parameters=domains)
    assert list(found) == ["parameters.lr.when.workload.hidden"]


def test_a_parameter_is_given_once() -> None:
    found = faults({"name": "digits-mlp", "params": {"hidden": 8}}, parameters={"workload.hidden": [8, 16]})
    assert list(found) == ["parameters.workload.hidden"]
    assert "workload.params.hidden" in found["parameters.workload.hidden"]
    override = [{"name": "sgd", "workload.hidden": 4}]
    found = faults({"name": "digits-mlp", "params": {"hidden": 8}}, optimizers=override)
    assert list(found) == ["optimizers[0].workload.hidden"]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"norm": [1, 0]}, "parameters.workload.norm"),
        ({"norm": {"min": 0, "max": 1}}, "parameters.workload.norm"),
        ({"activation": ["relu", "tanh"]}, "parameters.workload.activation"),
        ({"activation": {"min": 0, "max": 1}}, "parameters.workload.activation"),
        ({"path": [1, 2]}, "parameters.workload.path"),
        ({"width": [1.5]}, "parameters.workload.width"),
        ({"rate": ["fast"]}, "parameters.workload.rate"),
        ({"depth": [1]}, "parameters.workload.depth"),
        ({"needed": [1, 2]}, "parameters.workload.needed"),
    ],
)
def test_own_workloads_are_checked_as_far_as_workers_told(parameters: dict[str, Any], field: str) -> None:
    assert list(faults_of_mine(parameters)) == [field]


def test_of_an_own_workload_that_told_nothing_everything_is_taken() -> None:
    spec = parsed(
        "other", parameters={"workload.x": [1, "two", True], "workload.n": {"min": 1, "max": 9, "integer": True}}
    )
    (family, _) = families(stored(spec), CATALOGUE)
    assert family.domains["workload.x"] == Choices((1, "two", True))
    assert family.domains["workload.n"] == Range(1, 9, integer=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "is missing; mine takes"),
        ({"parameters": {"workload.needed": {"value": 3, "when": {"optimizer": ["sgd"]}}}}, "missing in some trials"),
        ({"optimizers": [{"name": "sgd", "workload.needed": 3}, "adamw"]}, "missing in some trials"),
        ({"parameters": {"workload.needed": [3, 4]}}, None),
        ({"optimizers": [{"name": "sgd", "workload.needed": 3}, {"name": "adamw", "workload.needed": 4}]}, None),
    ],
)
def test_what_has_no_default_is_given_to_every_trial(changes: dict[str, Any], told: str | None) -> None:
    if told is None:
        parsed("mine", **changes)
    else:
        assert told in faults("mine", **changes)["workload.params.needed"]


@pytest.mark.parametrize(
    ("parameters", "fits"),
    [
        ({"workload.width": [64, 128]}, True),
        ({"workload.width": [64, 100], "workload.heads": [4]}, True),
        ({"workload.width": [64, 100], "workload.heads": [4, 8]}, False),
        ({"workload.heads": [2, 3]}, False),
        ({"workload.width": {"min": 8, "max": 64}}, False),
        ({"workload.width": {"value": 60, "when": {"optimizer": ["sgd"]}}, "workload.heads": [4, 8]}, False),
    ],
)
def test_heads_divide_every_width_that_a_trial_may_have(parameters: dict[str, Any], fits: bool) -> None:
    if fits:
        parsed("text-gpt", parameters=parameters)
    else:
        assert "heads" in str(faults("text-gpt", parameters=parameters))


def configurations(spec: StudySpec, optimizer: str, *chosen: dict[str, Scalar]) -> list[dict[str, Scalar]]:
    family = next(family for family in families(stored(spec), CATALOGUE) if family.optimizer == optimizer)
    plain: dict[str, Scalar] = dict.fromkeys(family.domains, 1) | {"schedule": "cosine"}
    found = [family.configuration({**plain, **{f"workload.{k}": v for k, v in one.items()}}) for one in chosen]
    return [{k.removeprefix("workload."): v for k, v in one.items() if k.startswith("workload.")} for one in found]


def test_a_parameter_that_does_not_apply_is_absent() -> None:
    spec = mine(
        {
            "activation": ["relu", "gelu", "none"],
            "norm": {"values": [True, False], "when": {"workload.activation": ["relu", "gelu"]}},
            "rate": {"values": [0.1, 0.2], "when": {"workload.norm": [True]}},
            "width": {"values": [8, 16], "when": {"optimizer": ["adamw"]}},
        }
    )
    chosen: list[dict[str, Scalar]] = [
        {"activation": "relu", "norm": True, "rate": 0.1, "width": 8},
        {"activation": "gelu", "norm": False, "rate": 0.1, "width": 8},
        {"activation": "none", "norm": True, "rate": 0.1, "width": 8},
    ]
    assert configurations(spec, "sgd", *chosen) == [
        {"activation": "relu", "norm": True, "rate": 0.1},
        {"activation": "gelu", "norm": False},
        {"activation": "none"},
    ]
    assert configurations(spec, "adamw", *chosen) == [
        {"activation": "relu", "norm": True, "rate": 0.1, "width": 8},
        {"activation": "gelu", "norm": False, "width": 8},
        {"activation": "none", "width": 8},
    ]


def test_an_optimizer_may_have_a_domain_of_its_own() -> None:
    spec = parsed(
        optimizers=["sgd", {"name": "adamw", "workload.hidden": [64, 128]}],
        parameters={"workload.hidden": [8, 16], "workload.dropout": {"min": 0, "max": 0.5}},
    )
    sgd, adamw = families(stored(spec), CATALOGUE)
    assert sgd.domains["workload.hidden"] == Choices((8, 16))
    assert adamw.domains["workload.hidden"] == Choices((64, 128))
    assert spec.workload.values == ["dropout"]
