"""What of a study may change: named by key, with the reason where it may not."""

from typing import Any

import pytest
from study_documents import study_document

from tuner.errors import InvalidInput
from tuner.study.catalogue import BUILT_IN_WORKLOADS, load_catalogue
from tuner.study.changes import CHANGEABLE, changed, differences, merged, said
from tuner.study.check import parse_study
from tuner.study.spec import StudySpec

SPEC = parse_study(study_document(), load_catalogue(), BUILT_IN_WORKLOADS)


def faults(changes: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        changed(SPEC, changes)
    return {fault.field: fault.message for fault in caught.value.faults}


def test_only_what_is_named_changes() -> None:
    changes = {
        "title": "better", "note": "why", "tags": ["a", "2026", "a"], "run_cap": 9, "parallel": None, "priority": 2,
        "budget": {"max_failed": 3}, "webhook": "https://example.org/hook",
    }  # fmt: skip
    assert set(changes) == set(CHANGEABLE)
    new = changed(SPEC, changes)
    found = differences(SPEC.model_dump(mode="json"), new.model_dump(mode="json"))
    assert found == {
        "title": ["", "better"],
        "note": ["", "why"],
        "tags": [[], ["a", "2026"]],
        "run_cap": [4, 9],
        "parallel": [4, None],
        "priority": [1.0, 2.0],
        "budget.max_failed": [10, 3],
        "webhook": [None, "https://example.org/hook"],
    }
    assert changed(new, changes) == new
    assert changed(SPEC, {}) == SPEC


@pytest.mark.parametrize("name", sorted(StudySpec.model_fields.keys() - set(CHANGEABLE)))
def test_what_cannot_change_says_why_and_what_to_do(name: str) -> None:
    (message,) = faults({name: "another"}).values()
    assert message.startswith("cannot change: ") and message.endswith("clone the study to have another")
    document = SPEC.model_dump(mode="json")
    assert changed(SPEC, {name: document[name]}) == SPEC, "as it is already is no change"


def test_every_fault_is_named_at_once() -> None:
    found = faults(
        {
            "run_capp": 9,
            "run_cap": 0,
            "tags": ["Not A Slug"],
            "priority": "high",
            "seed": 3,
            "budget": {"examples_per_trial": 9, "max_fail": 1},
        }
    )
    assert set(found) == {"run_capp", "run_cap", "tags", "priority", "seed", "budget.max_fail"}
    assert "did you mean 'run_cap'" in found["run_capp"] and "max_failed" in found["budget.max_fail"]
    assert "trials have trained on it" in faults({"budget": {"examples_per_trial": 9}})["budget.examples_per_trial"]
    assert "budget" in faults({"budget": 3})


def test_a_merge_patch_is_that_of_its_standard() -> None:
    """The examples of RFC 7396, appendix A, that are objects."""
    cases: list[tuple[Any, Any, Any]] = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for document, patch, wanted in cases:
        assert merged(document, patch) == wanted


def test_a_stored_document_says_the_same_again_without_what_it_leaves_open() -> None:
    rich = study_document(
        optimizers=["sgd", {"name": "adamw", "lr": {"min": 1e-4, "max": 1e-2, "scaling": "log"}}],
        parameters={"batch_size": [16, 32], "weight_decay": {"value": 0.1, "when": {"optimizer": ["adamw"]}}},
        parallel=None,
        enqueue=[{"optimizer": "sgd", "lr": 0.5}],
    )
    spec = parse_study(rich, load_catalogue(), BUILT_IN_WORKLOADS)
    again = parse_study(said(spec.model_dump(mode="json")), load_catalogue(), BUILT_IN_WORKLOADS)
    assert again == spec
