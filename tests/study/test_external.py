"""Studies of the user's own code: what their documents may say, and which configurations they give."""

import json
from typing import Any

import pytest

from api.plans import Plan
from tuner.errors import InvalidInput
from tuner.search.methods import propose
from tuner.search.request import AskRequest, Observation, Search
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.hyperparameter import Scalar
from tuner.study.spec import StudySpec

CATALOGUE = load_catalogue()
PARAMETERS: dict[str, Any] = {
    "lr": {"min": 1e-4, "max": 1.0, "scaling": "log"},
    "layers": {"min": 2, "max": 8, "integer": True},
    "width": {"min": 16, "max": 4096, "scaling": "log", "integer": True},
    "activation": {"values": ["relu", "gelu"]},
    "batch_size": {"values": [16, 32.0]},
    "dropout": 0.1,
    "α of the mixture": {"min": 0.0, "max": 1.0},
}


def external(**changes: Any) -> dict[str, Any]:
    document = {"name": "own", "workload": "external", "metric": "loss", "parameters": PARAMETERS, "run_cap": 8}
    document |= changes
    return {key: value for key, value in document.items() if value is not None}


def parse(**changes: Any) -> StudySpec:
    return parse_study(external(**changes), CATALOGUE, ["digits-mlp"])


def faults(**changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse(**changes)
    return {fault.field: fault.message for fault in caught.value.faults}


def configurations(spec: StudySpec, method: str, count: int) -> list[dict[str, Scalar]]:
    found = []
    for family in families(spec, CATALOGUE):
        search = Search(method, 0, family.optimizer, family.swept, True, 0)
        random = AskRequest(Search("random", 0, family.optimizer, family.swept, True, 0), list(range(count)), {})
        seen = {i: Observation(values, float(i)) for i, values in enumerate(propose(random))}
        request = AskRequest(search, list(range(count)), seen if method == "tpe" else {})
        found += [family.configuration(chosen) for chosen in propose(request)]
    return found


@pytest.mark.parametrize("method", ["random", "quasirandom", "tpe"])
def test_configurations_are_the_documents_parameters(method: str) -> None:
    spec = parse(method=method)
    found = configurations(spec, method, 12)
    for params in found:
        assert set(params) == set(PARAMETERS)
        assert 1e-4 <= float(params["lr"]) <= 1.0 and 0 <= float(params["α of the mixture"]) <= 1
        assert type(params["layers"]) is int and 2 <= params["layers"] <= 8
        assert type(params["width"]) is int and 16 <= params["width"] <= 4096
        assert params["activation"] in ("relu", "gelu") and params["dropout"] == 0.1
        assert params["batch_size"] in (16, 32) and type(params["batch_size"]) is int
    if method != "tpe":  # which may come to like one of them
        assert len({p["activation"] for p in found}) == len({p["batch_size"] for p in found}) == 2


def test_a_document_may_name_optimizers_that_bring_their_ranges() -> None:
    spec = parse(optimizers=["sgd", {"name": "adamw", "beta1": 0.8}], parameters={"depth": [1, 2]})
    sgd, adamw = families(spec, CATALOGUE)
    assert set(sgd.domains) == {"lr", "weight_decay", "depth"} and "lr" in sgd.swept
    first = configurations(spec, "random", 1)
    assert first[0]["optimizer"] == "sgd" and first[1]["optimizer"] == "adamw" and first[1]["beta1"] == 0.8
    assert "batch_size" not in first[0] and "schedule" not in first[0]
    assert adamw.optimizer == "adamw"


def test_a_condition_on_the_optimizer_holds() -> None:
    conditional = {"depth": 3, "extra": {"values": [1, 2], "when": {"optimizer": ["adamw"]}}}
    first = configurations(parse(optimizers=["sgd", "adamw"], parameters=conditional), "random", 1)
    assert "extra" not in first[0] and "extra" in first[1]


def test_what_is_not_known_of_a_trial_is_null_and_survives_storing() -> None:
    spec = parse()
    assert spec.optimizers == [] and spec.budget.examples_per_trial is None and spec.budget.max_failed == 10
    again = StudySpec.model_validate(json.loads(spec.model_dump_json()))
    assert again == spec
    assert parse_study(again.model_dump(mode="json"), CATALOGUE, []) == spec, "a stored document can be submitted again"
    assert parse(budget={"examples_per_trial": 500}).budget.examples_per_trial == 500


def test_each_study_has_a_queue_of_its_own_that_fits_the_database() -> None:
    plans = [Plan(parse(name=name), [], parse().batch_groups()) for name in ("a", "b" * 64)]
    keys = [plan.stack({"lr": 0.1}) for plan in plans]
    assert keys[0] != keys[1] and all(len(key) <= 64 for key in keys)
    assert [plan.stacks for plan in plans] == [[keys[0]], [keys[1]]]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"parameters": None}, "parameters", "needs the hyperparameters"),
        ({"parameters": {}}, "parameters", "needs the hyperparameters"),
        ({"metric": None}, "metric", "needs the metric"),
        ({"workload": {"name": "external", "params": {"a": 1}}}, "workload.params", "takes none"),
        ({"micro_batch": 8}, "micro_batch", "leave it out"),
        ({"reproducible": True}, "reproducible", "leave it out"),
        ({"optimizers": ["sgdd"]}, "optimizers[0]", "did you mean 'sgd'"),
        ({"optimizers": ["sgd"], "parameters": {"optimizer": "x"}}, "parameters.optimizer", "leave one of the two"),
        ({"optimizers": ["sgd"], "parameters": {"lr": "fast"}}, "parameters.lr", "'fast'"),
        ({"parameters": {"lr": ["fast", "slow"]}}, "parameters.lr", "'slow'"),
        ({"parameters": {"batch_size": [0]}}, "parameters.batch_size", "0"),
        ({"parameters": {"batch_size": {"min": 1.5, "max": 8}}}, "parameters.batch_size.min", "1.5"),
        ({"parameters": {"n": {"min": 0.5, "max": 8, "integer": True}}}, "parameters.n.min", "whole numbers"),
        ({"parameters": {"n": {"values": [1, 2.5], "integer": True}}}, "parameters.n", "2.5"),
        ({"parameters": {"n": {"min": 3, "max": 1}}}, "parameters.n", "min must not be above max"),
        ({"parameters": {"workload.n": 3}}, "parameters.workload.n", "name it 'n'"),
        ({"parameters": {"": 3}}, "parameters.", "is no name"),
        ({"parameters": {"a\nb": 3}}, "parameters.a\nb", "is no name"),
        ({"parameters": {"n": {"value": 3, "when": {"optimizer": ["sgd"]}}}}, "parameters.n.when.optimizer", "never"),
        ({"parameters": {"n": {"value": 3, "when": {"schedule": ["x"]}}}}, "parameters.n.when.schedule", "optimizer"),
        ({"budget": {"examples_per_trial": 0}}, "budget.examples_per_trial", "0 given"),
    ],
)
def test_faults_are_named_with_their_field(changes: dict[str, Any], field: str, words: str) -> None:
    assert words in faults(**changes)[field]


def test_other_workloads_keep_their_rules() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_study(
            {"name": "x", "workload": "digits-mlp", "run_cap": 1, "budget": {"examples_per_trial": None}},
            CATALOGUE,
            ["digits-mlp"],
        )
    found = {fault.field: fault.message for fault in caught.value.faults}
    assert set(found) == {"optimizers", "budget.examples_per_trial"} and "null" in found["budget.examples_per_trial"]
