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
    assert spec.budget.max_failed == 10
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
    assert found["workload"] == "unknown workload 'digit'; did you mean 'digits-mlp'?"
    assert "'x' given" in found["optimizers[0].lr.min"]
    assert found["optimizers[1]"] == "unknown optimizer 'sgdd'; did you mean 'sgd'?"
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
        (
            {"optimizers": [{"name": "sgd", "lr": {"min": 2, "max": 1}}]},
            "optimizers[0].lr",
            "min must not be above max; given are 2 and 1",
        ),
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


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+.1e-2"])
def test_numbers_that_yaml_1_1_reads_as_text_are_numbers_where_numbers_are_wanted(text: str) -> None:
    spec = parse(
        optimizers=[{"name": "sgd", "lr": {"values": [text, 0.1]}}, {"name": "adamw", "lr": {"min": text, "max": 1}}],
        budget={"examples_per_trial": "1e5"},
        metric={"target": text},
        workload={"name": "digits-mlp", "params": {"hidden": "2e1"}},
    )
    sgd, adamw = families(spec, CATALOGUE)
    assert sgd.domains["lr"] == Choices((0.001, 0.1)) and adamw.domains["lr"] == Range(0.001, 1.0)
    assert (spec.budget.examples_per_trial, spec.metric.target) == (100_000, 0.001)
    assert spec.workload.params == {"hidden": 20}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"optimizers": [{"name": "sgd", "lr": "0.1"}]}, "optimizers[0].lr"),
        ({"optimizers": [{"name": "sgd", "lr": {"min": "0.1", "max": 1}}]}, "optimizers[0].lr.min"),
        ({"optimizers": [{"name": "sgd", "lr": True}]}, "optimizers[0].lr"),
        ({"parameters": {"batch_size": "32"}}, "parameters.batch_size"),
        ({"workload": {"name": "digits-mlp", "params": {"hidden": "32"}}}, "workload.params.hidden"),
        ({"workload": {"name": "digits-mlp", "params": {"hidden": "1e400"}}}, "workload.params.hidden"),
        ({"optimizers": [{"name": "sgd", "lr": "1e400"}]}, "optimizers[0].lr"),
        ({"run_cap": "4"}, "run_cap"),
        ({"run_cap": True}, "run_cap"),
        ({"run_cap": 4.5}, "run_cap"),
        ({"divergence_factor": "20"}, "divergence_factor"),
    ],
)
def test_text_and_truth_values_are_never_taken_for_numbers(changes: dict[str, Any], field: str) -> None:
    assert list(faults(**changes)) == [field]


def test_the_types_of_an_own_workloads_parameters_stay() -> None:
    params = {"code": "007", "rate": "1e-3", "flag": True, "count": 3, "share": 3.0, "word": "no"}
    spec = parse_study(study_document(workload={"name": "mine", "params": params}), CATALOGUE, ["mine"])
    again = StudySpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))
    for found in (spec, again):
        read = found.workload.params
        assert {key: (type(value), value) for key, value in read.items()} == {
            key: (type(value), value) for key, value in params.items()
        }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parameters": {"weight_decay": {"values": [0.1, {}]}}}, "parameters.weight_decay.values[1]"),
        ({"parameters": {"weight_decay": {"value": [1]}}}, "parameters.weight_decay.value"),
        ({"parameters": {"weight_decay": None}}, "parameters.weight_decay"),
        ({"optimizers": [["sgd"]]}, "optimizers[0]"),
        ({"optimizers": [{"name": "sgd", "lr": [float("nan")]}]}, "optimizers[0].lr.values[0]"),
        ({"optimizers": [{"name": "sgd", "lr": {"mn": 1, "max": 2}}]}, "optimizers[0].lr.mn"),
        ({"workload": {"name": "digits-mlp", "params": {"hidden": [1]}}}, "workload.params.hidden"),
        ({"workload": 3}, "workload"),
        ({"budget": 3}, "budget"),
        ({"budget": {"examples": 3}}, "budget.examples"),
        ({"metric": {"target": "low"}}, "metric.target"),
        ({"reproducible": "x" * 5000}, "reproducible"),
    ],
)
def test_one_bad_value_gives_one_short_line(changes: dict[str, Any], field: str) -> None:
    found = faults(**changes)
    if "lr" in str(changes) and "mn" in str(changes):
        found.pop("optimizers[0].lr", None)  # without its min it is no range either
    assert list(found) == [field]
    assert "\n" not in found[field] and len(found[field]) < 200


@pytest.mark.parametrize(
    ("changes", "field", "meant"),
    [
        ({"optimizers": ["AdamW"]}, "optimizers[0]", "adamw"),
        ({"optimizers": ["torch.optim.SGD"]}, "optimizers[0]", "sgd"),
        ({"optimizers": ["schedule-free-adamw"]}, "optimizers[0]", "schedule_free_adamw"),
        ({"optimizers": [{"name": "sgd", "learning_rate": 0.1}]}, "optimizers[0].learning_rate", "lr"),
        ({"optimizers": [{"name": "sgd", "bs": 8}]}, "optimizers[0].bs", "batch_size"),
        ({"parameters": {"bs": 8}}, "parameters.bs", "batch_size"),
        ({"parameters": {"learning_rate": 0.1}}, "parameters.learning_rate", "lr"),
        ({"parameters": {"wd": 0.1}}, "parameters.wd", "weight_decay"),
        ({"parameters": {"schedule": "CosineAnnealingLR"}}, "parameters.schedule", "cosine"),
        ({"max_trials": 8}, "max_trials", "run_cap"),
        ({"budget": {"max_fail": 8}}, "budget.max_fail", "max_failed"),
        ({"metric": "accuracy"}, "metric.name", "valid_accuracy"),
        ({"workload": {"name": "digits-mlp", "params": {"hiden": 8}}}, "workload.params.hiden", "hidden"),
    ],
)
def test_other_spellings_and_other_libraries_words_are_understood(
    changes: dict[str, Any], field: str, meant: str
) -> None:
    assert f"did you mean {meant!r}?" in faults(**changes)[field]


WITH = {"optimizers": ["sgd", {"name": "adamw", "schedule": "wsd"}]}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"cooldown": 0.5, "schedule": "cosine"}, None),
        ({"cooldown": {"value": 0.5, "when": {"optimizer": ["adamw"]}}}, None),
        ({"cooldown": {"value": 0.5, "when": {"optimizer": ["sgd"]}}}, "parameters.cooldown"),
        ({"gamma": 0.5}, "parameters.gamma"),
        ({"gamma": 0.5, "schedule": {"values": ["constant", "step"]}}, None),
        ({"lr": {"value": 1, "when": {"schedule": ["wsd"]}}}, None),
        ({"lr": {"value": 1, "when": {"schedule": ["cosine"]}}}, "parameters.lr.when.schedule"),
        (
            {"lr": {"value": 1, "when": {"schedule": ["wsd"], "optimizer": ["sgd"]}}},
            "parameters.lr.when.schedule",
        ),
        ({"warmup": {"value": 0.1, "when": {"schedule": ["step"]}}}, "parameters.warmup.when.schedule"),
        ({"lr": {"value": 1, "when": {"optimizer": []}}}, "parameters.lr.when.optimizer"),
        ({"lr": {"value": 1, "when": {"schedule": []}}}, "parameters.lr.when.schedule"),
    ],
)
def test_what_could_never_take_effect_is_named(parameters: dict[str, Any], field: str | None) -> None:
    if field is None:
        spec = parse(**WITH, parameters=parameters)
        (key,) = [key for key in parameters if key != "schedule"]
        assert any(key in family.domains for family in families(spec, CATALOGUE))
    else:
        assert list(faults(**WITH, parameters=parameters)) == [field]


def test_batches_above_the_budget_are_refused_where_no_trial_could_take_a_step_and_else_left_out() -> None:
    own = {"name": "sgd", "batch_size": [2048, 4096]}
    assert "so no trial could take a step" in faults(parameters={"batch_size": 641})["budget.examples_per_trial"]
    assert "so no trial of sgd could take a step" in faults(optimizers=["adamw", own])["optimizers[1].batch_size"]
    spec = parse(parameters={"batch_size": {"values": [16, 640, 641, 100_000]}}, micro_batch=16)
    assert families(spec, CATALOGUE)[0].domains["batch_size"] == Choices((16, 640))
    assert spec.batch_sizes_left_out() == [641, 100_000]


@pytest.mark.parametrize(
    ("optimizer", "field"),
    [
        ({"name": "sgd", "lr": {"min": 0.1, "max": 3, "integer": True}}, "optimizers[0].lr.integer"),
        ({"name": "muon", "ns_steps": {"min": 2, "max": 9, "integer": False}}, "optimizers[0].ns_steps.integer"),
        ({"name": "muon", "ns_steps": {"min": 2.5, "max": 9}}, "optimizers[0].ns_steps.min"),
        ({"name": "muon", "ns_steps": 4.5}, "optimizers[0].ns_steps"),
        ({"name": "sgd", "batch_size": {"values": [8, 16], "integer": False}}, "optimizers[0].batch_size.integer"),
        ({"name": "sgd", "schedule": {"value": "wsd", "integer": True}}, "optimizers[0].schedule.integer"),
    ],
)
def test_what_is_an_integer_is_the_catalogues_to_say(optimizer: dict[str, Any], field: str) -> None:
    assert list(faults(optimizers=[optimizer])) == [field]


@pytest.mark.parametrize("written", [{}, {"integer": True}, {"integer": None}])
def test_an_integer_hyperparameter_has_integers_however_it_is_written(written: dict[str, Any]) -> None:
    spec = parse(
        optimizers=[
            {"name": "muon", "ns_steps": {"min": 2, "max": 9, **written}},
            {"name": "soap", "refresh": {"values": [2.0, 2, 3], **written}},
            {"name": "shampoo", "refresh": {"min": 5, "max": 5.0, **written}},
        ]
    )
    muon, soap, shampoo = families(spec, CATALOGUE)
    assert muon.domains["ns_steps"] == Range(2, 9, "linear", integer=True)
    assert soap.domains["refresh"] == Choices((2, 3))
    assert shampoo.domains["refresh"] == Fixed(5)
    assert all(isinstance(value, int) for value in (*soap.domains["refresh"].values, shampoo.domains["refresh"].value))


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
    assert spec.batch_sizes() == [32, 64, 256] and [group.micro_batch for group in spec.batch_groups()] == [16, 128]
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
