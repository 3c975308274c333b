"""A study document: defaults, short forms, and every fault at once with its field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_documents import study_document

from tuner.errors import InvalidInput
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.space import Choices, Fixed, Range
from tuner.study.spec import StudySpec
from tuner.terminal.demo import DEMO_DOCUMENT

CATALOGUE = load_catalogue()


def parse(**changes: Any) -> StudySpec:
    return parse_study(study_document(**changes), CATALOGUE, ["digits-mlp"])


def faults(**changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse(**changes)
    return {fault.field: fault.message for fault in caught.value.faults}


def test_defaults_are_filled_in() -> None:
    spec = parse()
    assert spec.metric.name == "valid_loss"
    assert spec.metric.goal == "minimize"
    assert spec.retry.max == 3
    assert spec.seed == 0


def test_a_study_is_reproducible_when_it_says_so() -> None:
    assert not parse().reproducible and parse(reproducible=True).reproducible
    assert "'perhaps' given" in faults(reproducible="perhaps")["reproducible"]


def test_every_fault_is_named_at_once_with_its_field_and_the_value() -> None:
    found = faults(
        name="123",
        workload="digit",
        metrik=3,
        optimizers=[{"name": "adamw", "lr": {"min": "x", "max": 1}}, "sgdd", {"name": "muon", "foo": 1}],
        parameters={"batch_size": {"values": [0]}, "schedule": "cos", "foo": 3},
        run_cap=0,
        budget={"examples_per_trial": -3},
    )
    assert "'123'" in found["name"]
    assert found["metrik"] == "unknown key; did you mean 'metric'?"
    assert found["workload"] == "unknown workload 'digit'; known are digits-mlp"
    assert "'x' given" in found["optimizers[0].lr.min"]
    assert "unknown optimizer 'sgdd'; known are " in found["optimizers[1]"] and "adamw, " in found["optimizers[1]"]
    assert "muon has no hyperparameter 'foo'" in found["optimizers[2].foo"]
    assert "0 given" in found["parameters.batch_size"]
    assert "unknown schedule 'cos'" in found["parameters.schedule"]
    assert "'foo'" in found["parameters.foo"]
    assert "0 given" in found["run_cap"]
    assert "-3 given" in found["budget.examples_per_trial"]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"optimizers": []}, "optimizers", "one or more"),
        ({"optimizers": ["sgd", "sgd"]}, "optimizers[1]", "listed twice"),
        ({"optimizers": [{"name": "sgd", "lr": {"min": 1e-3}}]}, "optimizers[0].lr", "both min and max"),
        ({"optimizers": [{"name": "sgd", "lr": {"min": 0, "max": 1, "scaling": "log"}}]}, "optimizers[0].lr", "above"),
        ({"optimizers": [{"name": "sgd", "lr": {"min": 2, "max": 1}}]}, "optimizers[0].lr", "below max, not 2 and 1"),
        (
            {"optimizers": [{"name": "momentum", "momentum": {"min": 0.5, "max": 1.5}}]},
            "optimizers[0].momentum.max",
            "1.5",
        ),
        ({"parameters": {"momentum": 0.9}}, "parameters.momentum", "no optimizer or schedule of this study"),
        ({"parameters": {"beta1": 0.9}}, "parameters.beta1", "add `when: {optimizer: [adamw]}`"),
        ({"parameters": {"lr": {"value": 1, "when": {"optimizer": ["x"]}}}}, "parameters.lr.when.optimizer", "'x'"),
        ({"parameters": {"batch_size": {"min": 8, "max": 64}}}, "parameters.batch_size", "values"),
        ({"parameters": {"batch_size": 2000}}, "budget.examples_per_trial", "smallest batch size 2000"),
        ({"micro_batch": 12}, "micro_batch", "does not divide batch size 16"),
        ({"metric": {"stop_on_target": True}}, "metric", "needs a target"),
        ({"metric": "valid_los"}, "metric.name", "digits-mlp reports train_loss, valid_loss, valid_accuracy"),
        ({"seed": -1}, "seed", "-1 given"),
        ({"method": "bayes"}, "method", "'bayes' given"),
        ({"divergence_factor": float("inf")}, "divergence_factor", "inf given; input should be a finite number"),
    ],
)
def test_each_fault_says_what_is_allowed(changes: dict[str, Any], field: str, words: str) -> None:
    assert words in faults(**changes)[field]


def test_each_optimizer_brings_its_own_ranges_and_the_document_overrides_them() -> None:
    spec = parse(
        optimizers=["sgd", {"name": "adamw", "lr": {"min": 1e-3, "max": 1e-2, "scaling": "log"}, "beta1": 0.9}],
        parameters={"weight_decay": {"values": [0, 0.1], "when": {"optimizer": ["adamw"]}}},
    )
    sgd, adamw = families(spec, CATALOGUE)
    assert sgd.domains["lr"] == Range(1e-3, 3.0, "log")
    assert sgd.domains["weight_decay"] == Fixed(0.0)
    assert adamw.domains["lr"] == Range(1e-3, 1e-2, "log")
    assert adamw.domains["beta1"] == Fixed(0.9)
    assert adamw.domains["weight_decay"] == Choices((0, 0.1))
    assert list(adamw.swept) == ["lr", "weight_decay"]


def test_a_configuration_holds_what_counts_under_its_schedule_and_nothing_else() -> None:
    spec = parse(
        optimizers=["sgd"],
        parameters={"schedule": {"values": ["constant", "wsd"]}, "cooldown": {"values": [0.2, 0.5]}},
    )
    (family,) = families(spec, CATALOGUE)
    chosen = {"lr": 0.1, "schedule": "constant", "cooldown": 0.5}
    assert "cooldown" not in family.configuration(chosen)
    assert family.configuration({**chosen, "schedule": "wsd"})["cooldown"] == 0.5
    assert family.configuration(chosen)["warmup"] == 0.0
    assert family.configuration(chosen)["batch_size"] == 32


@pytest.mark.parametrize(
    ("sizes", "expected"), [([8, 256], 4), ([16, 64], 4), ([32], 8), ([48, 36], 6), ([1, 8], 1), ([7], 1), ([2, 4], 1)]
)
def test_the_micro_batch_divides_every_batch_and_leaves_two_parts_or_more(sizes: list[int], expected: int) -> None:
    assert parse(parameters={"batch_size": {"values": sizes}}).micro_batch_size() == expected


def test_numbers_that_yaml_reads_as_text_are_taken_as_numbers() -> None:
    spec = parse(optimizers=[{"name": "sgd", "lr": {"values": ["1e-3", 0.1]}}])
    assert families(spec, CATALOGUE)[0].domains["lr"] == Choices((0.001, 0.1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(StudySpec.model_fields)), value=JSON)
def test_no_value_makes_the_check_itself_fail(key: str, value: Any) -> None:
    try:
        spec = parse(**{key: value})
    except InvalidInput as error:
        assert all(fault.message for fault in error.faults)
    else:
        assert families(spec, CATALOGUE)


def test_an_optimizer_may_have_batch_sizes_and_schedules_of_its_own() -> None:
    own = {"name": "sgd", "batch_size": 256, "schedule": {"values": ["constant", "step"]}}
    parameters = {"batch_size": {"values": [32, 64]}, "schedule": "cosine", "gamma": {"values": [0.1, 0.5]}}
    spec = parse(optimizers=[{"name": "adamw", "clip_norm": 1.0}, own], parameters=parameters)
    assert spec.batch_sizes() == [32, 64, 256] and spec.micro_batch_size() == 8
    adamw, sgd = families(spec, CATALOGUE)
    assert adamw.domains["batch_size"] == Choices((32, 64)) and adamw.domains["schedule"] == Fixed("cosine")
    assert sgd.domains["batch_size"] == Fixed(256) and sgd.domains["schedule"] == Choices(("constant", "step"))
    assert "gamma" in sgd.domains and "gamma" not in adamw.domains
    assert adamw.domains["clip_norm"] == Fixed(1.0) and "clip_norm" not in sgd.domains


def test_an_optimizers_own_batch_sizes_and_schedules_are_checked() -> None:
    found = faults(optimizers=[{"name": "sgd", "batch_size": 2.5, "schedule": "cosin"}])
    assert "2.5" in found["optimizers[0].batch_size"]
    assert "unknown schedule 'cosin'" in found["optimizers[0].schedule"]


def test_a_stored_document_reads_back_as_what_was_submitted() -> None:
    """A server that is restarted parses what is stored; until then it keeps what it parsed at submission."""
    for document in (study_document(), DEMO_DOCUMENT):
        spec = parse_study(document, CATALOGUE, ["digits-mlp"])
        assert StudySpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
