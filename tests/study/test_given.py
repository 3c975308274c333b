"""Configurations that a user gives: legal ones are completed, others refused by field."""

from typing import Any

import pytest
from study_documents import study_document

from tuner.errors import InvalidInput
from tuner.study.catalogue import BUILT_IN_WORKLOADS, load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.given import Given, complete
from tuner.study.micro_batch import Group, grouped, joined
from tuner.study.workload_parameters import Signature, signature_of

CATALOGUE = load_catalogue()


def given(params: dict[str, Any], signature: Signature | None = None, **document: Any) -> Given:
    told = {signature.workload: signature} if signature is not None else {}
    spec = parse_study(study_document(**document), CATALOGUE, {*BUILT_IN_WORKLOADS, "external", *told}, told)
    signature = signature_of(spec.workload.name, told)
    return complete(params, spec, families(spec, CATALOGUE), CATALOGUE, signature)


def faults(params: dict[str, Any], **document: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        given(params, **document)
    return {fault.field: fault.message for fault in caught.value.faults}


def test_what_is_left_out_takes_the_documents_value_or_the_documented_default() -> None:
    found = given({"lr": 0.1}, optimizers=["adamw"], parameters={"batch_size": [16, 64], "beta1": 0.8})
    info = CATALOGUE.optimizers["adamw"]
    own = {h.name: h.default for h in info.hyperparameters if not h.treatment}
    assert found == Given(
        "adamw",
        {"optimizer": "adamw", **own, "lr": 0.1, "beta1": 0.8, "batch_size": 16, "schedule": "constant", "warmup": 0.0},
    )
    wide = given({"optimizer": "sgd"}, parameters={"batch_size": [16, 32, 64], "schedule": ["wsd", "cosine"]})
    assert wide.params["batch_size"] == 32 and wide.params["schedule"] == "wsd"


def test_a_schedule_brings_its_parameters() -> None:
    shapes = {"schedule": ["constant", "cosine"], "floor": {"min": 0.0, "max": 0.2}}
    cosine = {p.name: p.default for p in CATALOGUE.schedules["cosine"].parameters}
    found = given({"lr": 0.1, "schedule": "cosine"}, optimizers=["sgd"], parameters=shapes).params
    assert {name: found[name] for name in cosine} == cosine
    fixed = given({"schedule": "cosine"}, optimizers=["sgd"], parameters={**shapes, "floor": 0.1}).params
    assert fixed["floor"] == 0.1
    assert "floor" not in given({}, optimizers=["sgd"], parameters=shapes).params
    other = given({"schedule": "linear"}, optimizers=["sgd"], parameters=shapes).params
    assert set(p.name for p in CATALOGUE.schedules["linear"].parameters) <= set(other), "the search need not contain it"


def test_values_may_lie_outside_the_search_but_not_outside_what_is_legal() -> None:
    document = {"optimizers": [{"name": "sgd", "lr": {"min": 1e-3, "max": 1e-2, "scaling": "log"}}]}
    assert given({"lr": "5e-1", "batch_size": 40.0}, **document).params["lr"] == 0.5
    found = faults({"lr": -1, "batch_size": 1000, "momentun": 0.9, "schedule": "cosinus"}, **document)
    assert set(found) == {"params.lr", "params.momentun", "params.schedule"}
    assert "allowed is a number in" in found["params.lr"]
    assert "the budget is 640 examples" in faults({"batch_size": 1000}, **document)["params.batch_size"]
    assert "does not divide" in faults({"batch_size": 20}, micro_batch=16, **document)["params.batch_size"]


def test_the_optimizer_is_one_of_the_studys() -> None:
    assert "it is missing" not in faults({"lr": 0.1})["params.optimizer"]
    assert faults({"lr": 0.1})["params.optimizer"] == "is missing; the study's are sgd, adamw"
    assert "the study's are sgd, adamw" in faults({"optimizer": "muon"})["params.optimizer"]


def test_workload_parameters_that_the_document_fixes_cannot_change() -> None:
    searched = {"optimizers": ["sgd"], "parameters": {"workload.hidden": {"values": [16, 32]}}}
    assert given({"workload.hidden": 64}, **searched).params["workload.hidden"] == 64
    assert given({}, **searched).params["workload.hidden"] == 32
    assert "clone the study" in faults({"workload.dropout": 0.1}, **searched)["params.workload.dropout"]
    assert "allowed is" in faults({"workload.hidden": 0}, **searched)["params.workload.hidden"]


def test_conditions_hold_for_given_values_too() -> None:
    document = {
        "optimizers": ["sgd"],
        "workload": "mine",
        "parameters": {
            "workload.norm": {"values": [True, False]},
            "workload.eps": {"min": 0.1, "max": 1.0, "when": {"workload.norm": [True]}},
        },
    }
    mine = Signature("mine", more=True)
    assert given({"workload.norm": True, "workload.eps": 0.5}, mine, **document).params["workload.eps"] == 0.5
    with pytest.raises(InvalidInput, match="does not apply"):
        given({"workload.norm": False, "workload.eps": 0.5}, mine, **document)
    assert "workload.norm" not in given({}, mine, **document).params, "its function has a default"
    needed = Signature("mine", {}, frozenset({"norm"}), more=True)
    with pytest.raises(InvalidInput, match=r"workload\.norm: is missing"):
        given({}, needed, **document)


def test_external_studies_take_the_documents_names() -> None:
    document = {
        "workload": "external", "metric": "loss", "optimizers": [], "budget": {},
        "parameters": {"depth": {"min": 1, "max": 9, "integer": True}, "kind": ["a", "b"], "lr": 0.1},
    }  # fmt: skip
    document.pop("optimizers")
    spec = study_document(**document)
    spec.pop("optimizers")
    parsed = parse_study(spec, CATALOGUE, {"external"})
    spaces, nothing = families(parsed, CATALOGUE), Signature("external")
    found = complete({"depth": 20, "kind": "c"}, parsed, spaces, CATALOGUE, nothing)
    assert found == Given("external", {"depth": 20, "kind": "c", "lr": 0.1})
    with pytest.raises(InvalidInput) as caught:
        complete({"depth": 1.5, "colour": 1}, parsed, spaces, CATALOGUE, nothing)
    assert {fault.field for fault in caught.value.faults} == {"params.depth", "params.colour"}
    with pytest.raises(InvalidInput, match=r"params\.kind: is missing"):
        complete({"depth": 1}, parsed, spaces, CATALOGUE, nothing)


def test_a_documents_configurations_are_checked_with_it() -> None:
    document = study_document(enqueue=[{"optimizer": "sgd"}, {"lr": 1}, {"optimizer": "sgd", "lr": "x"}] * 2)
    with pytest.raises(InvalidInput) as caught:
        parse_study(document, CATALOGUE, BUILT_IN_WORKLOADS)
    assert [fault.field for fault in caught.value.faults] == [
        "enqueue", "enqueue[1].optimizer", "enqueue[2].lr", "enqueue[4].optimizer", "enqueue[5].lr",
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [[16, 32], [1, 2, 3], [24, 40], [7], [512, 1024], [100]])
def test_a_further_batch_size_changes_no_other_ones_program(sizes: list[int]) -> None:
    groups = grouped(sizes)
    before = {group.micro_batch: group.per_tick for group in groups}
    for size in range(1, 1200):
        try:
            found = joined(groups, size)
        except ValueError:
            assert size < 8, "only tiny ones find no micro-batch of their own"
            continue
        own = [group for group in found if size in group.batch_sizes]
        assert len(own) == 1 and size % (own[0].micro_batch * own[0].per_tick) == 0
        assert len({group.micro_batch for group in found}) == len(found)
        assert {g.micro_batch: g.per_tick for g in found if g.micro_batch in before} == before
        assert {s for g in found for s in g.batch_sizes} == {*sizes, size}
    assert joined(groups, sizes[0]) == groups


def test_a_batch_size_that_a_stack_takes_joins_it() -> None:
    assert joined([Group(8, (16, 32))], 48) == [Group(8, (16, 32, 48))]
    assert joined([Group(8, (16, 32))], 24) == [Group(8, (16, 32)), Group(12, (24,))]
