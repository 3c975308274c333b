"""Parameter groups in a document and in a configuration: faults by field, domains, classes, and the depth of layers."""

from typing import Any

import pytest

from tuner.errors import InvalidInput
from tuner.study.catalogue import load_catalogue
from tuner.study.check import parse_study
from tuner.study.families import families
from tuner.study.given import complete
from tuner.study.layer_depth import layer_depths
from tuner.study.parameter_groups import (
    ParameterGroup,
    Partition,
    configuration_of,
    default_name,
    groups_of,
    read_groups,
)
from tuner.study.space import Fixed, Range
from tuner.study.spec import StudySpec
from tuner.study.workload_parameters import signature_of

ISSUE = [
    {"match": "head.*", "lr_factor": 10},
    {"depth_decay": {"min": 0.6, "max": 1}},
    {"match": "*.bias", "weight_decay_factor": 0},
]


def parsed(groups: Any, *optimizers: str) -> StudySpec:
    document = {"name": "a", "workload": "digits-mlp", "optimizers": list(optimizers or ("adamw",)), "run_cap": 4}
    return parse_study({**document, "groups": groups}, load_catalogue(), {"digits-mlp"})


def test_factors_are_hyperparameters_of_the_trial() -> None:
    spec = parsed(ISSUE, "adamw", "sgd")
    for family in families(spec, load_catalogue()):
        assert {name: domain for name, domain in family.domains.items() if name.startswith("group.")} == {
            "group.head.match": Fixed("head.*"),
            "group.head.lr_factor": Fixed(10),
            "group.all.match": Fixed("*"),
            "group.all.depth_decay": Range(0.6, 1.0),
            "group.bias.match": Fixed("*.bias"),
            "group.bias.weight_decay_factor": Fixed(0),
        }
        assert "group.all.depth_decay" in family.swept and "group.head.match" not in family.swept
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_configuration_names_the_groups_again() -> None:
    (family,) = families(parsed(ISSUE), load_catalogue())
    chosen = family.configuration({"lr": 1e-3, "beta1": 0.9, "weight_decay": 0.1, "group.all.depth_decay": 0.75})
    expected = (
        ParameterGroup("all", "*", depth_decay=0.75),
        ParameterGroup("bias", "*.bias", weight_decay_factor=0.0),
        ParameterGroup("head", "head.*", lr_factor=10.0),
    )
    assert groups_of(chosen) == groups_of(dict(reversed(chosen.items()))) == expected
    assert groups_of(configuration_of(expected)) == expected
    assert groups_of({"optimizer": "adamw", "lr": 0.1}) == ()


def test_names_follow_from_the_pattern_or_are_given() -> None:
    names = {"head.*": "head", "*.bias": "bias", "*": "all", "blocks.*.attn*": "blocks_attn", "[ab].x": "ab_x"}
    assert {match: default_name(match) for match in names} == names
    spec = parsed([{"lr_factor": 2}, {"name": "Depth", "depth_decay": [0.8, 1.0]}])
    assert [group.name for group in spec.groups] == ["all", "Depth"]
    assert len(parsed([{"match": "x" * 200, "lr_factor": 2}]).groups[0].name) == 64


FAULTS: list[tuple[Any, tuple[str, ...], str, str]] = [
    ("head", ("adamw",), "groups", "'head' given; a list of at most 50 groups is needed"),
    ([{"lr_factor": 1}] * 51, ("adamw",), "groups", "a list of at most 50 groups is needed"),
    ([3], ("adamw",), "groups[0]", "a mapping of keys to values is needed"),
    (
        [{"match": "head.*"}],
        ("adamw",),
        "groups[0]",
        "a group needs one of lr_factor, weight_decay_factor, depth_decay",
    ),
    ([{"match": 3, "lr_factor": 2}], ("adamw",), "groups[0].match", "3 given; input should be a valid string"),
    ([{"match": "", "lr_factor": 2}], ("adamw",), "groups[0].match", "at least 1 character"),
    ([{"name": "a b", "lr_factor": 2}], ("adamw",), "groups[0].name", "'a b' given; string should match"),
    ([{"lr_factor": 1, "depth_deca": 2}], ("adamw",), "groups[0].depth_deca", "did you mean 'depth_decay'"),
    ([{"lr_factor": 0}], ("adamw",), "groups[0].lr_factor", r"is 0; allowed is a number in \(0, 1e\+06\]"),
    ([{"lr_factor": "x"}], ("adamw",), "groups[0].lr_factor", "is 'x'; allowed is a number"),
    ([{"lr_factor": [1, -1]}], ("adamw",), "groups[0].lr_factor", "is -1"),
    ([{"lr_factor": {"min": 3, "max": 1}}], ("adamw",), "groups[0].lr_factor", "min must not be above max"),
    ([{"lr_factor": {"mix": 1}}], ("adamw",), "groups[0].lr_factor.mix", "unknown key"),
    (
        [{"weight_decay_factor": -1}],
        ("adamw",),
        "groups[0].weight_decay_factor",
        r"allowed is a number in \[0, 1e\+06\]",
    ),
    ([{"depth_decay": {"min": 0.5, "max": 1.5}}], ("adamw",), "groups[0].depth_decay.max", r"number in \(0, 1\]"),
    (
        [{"depth_decay": {"min": 0.5, "max": 1, "integer": True}}],
        ("adamw",),
        "groups[0].depth_decay.integer",
        "leave it",
    ),
    (
        [{"lr_factor": {"value": 2, "when": {"optimizer": ["adamw"]}}}],
        ("adamw",),
        "groups[0].lr_factor.when",
        "condition",
    ),
    ([{"lr_factor": 1}, {"lr_factor": 2}], ("adamw",), "groups[1].name", r"'all' is the name of groups\[0\] too"),
    ([{"lr_factor": 2}], ("adamw", "lbfgs"), "groups[0].lr_factor", "lbfgs moves all parameters as one"),
    ([{"depth_decay": 0.8}], ("prodigy",), "groups[0].depth_decay", "prodigy moves all parameters as one"),
    ([{"weight_decay_factor": 0}], ("scion",), "groups[0].weight_decay_factor", "scion has no weight_decay"),
]


@pytest.mark.parametrize(("groups", "optimizers", "field", "message"), FAULTS)
def test_a_fault_is_told_at_its_field(groups: Any, optimizers: tuple[str, ...], field: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        parsed(groups, *optimizers)
    assert [fault.field for fault in raised.value.faults] == [field]


def test_a_fault_in_one_group_hides_none_in_another() -> None:
    with pytest.raises(InvalidInput) as raised:
        parsed([{"match": "a"}, {"lr_factor": 0}, {"match": "b", "depth_decay": 2}], "adamw", "no-such")
    fields = [fault.field for fault in raised.value.faults]
    assert fields == ["groups[0]", "optimizers[1]", "groups[1].lr_factor", "groups[2].depth_decay"]


def test_factors_of_all_groups_that_match_multiply() -> None:
    groups = read_groups(
        {
            "a": {"match": "head.*", "lr_factor": 10},
            "b": {"depth_decay": 0.5},
            "c": {"match": "*.bias", "weight_decay_factor": 0, "lr_factor": 2},
        }
    )
    partition = Partition(groups, ["a.weight", "a.bias", "b.weight", "b.bias", "head.weight", "head.bias"])
    found = partition.factors(groups)
    assert {name: found[number] for name, number in partition.of.items()} == {
        "a.weight": (0.25, 1.0),
        "a.bias": (0.5, 0.0),
        "b.weight": (0.5, 1.0),
        "b.bias": (1.0, 0.0),
        "head.weight": (10.0, 1.0),
        "head.bias": (20.0, 0.0),
    }
    assert len(partition) == 6


def test_a_class_is_what_matches_the_same_groups_and_lies_equally_deep_where_it_counts() -> None:
    names = [f"{layer}.{part}" for layer in ("a", "b", "c") for part in ("weight", "bias")]
    assert len(Partition((), names)) == 1
    assert len(Partition(read_groups({"g": {"match": "*.bias", "lr_factor": 2}}), names)) == 2
    assert len(Partition(read_groups({"g": {"match": "*.bias", "depth_decay": 0.5}}), names)) == 4


def test_frozen_parameters_are_layers_and_belong_to_no_class() -> None:
    groups = read_groups({"g": {"depth_decay": 0.5}})
    partition = Partition(groups, ["a.weight", "b.weight", "c.weight"], trained={"a.weight", "c.weight"})
    assert {name: partition.factors(groups)[number][0] for name, number in partition.of.items()} == {
        "a.weight": 0.25,
        "c.weight": 1.0,
    }


def test_a_pattern_that_matches_nothing_is_named_with_some_parameters() -> None:
    names = [f"layer{i}.weight" for i in range(8)]
    groups = read_groups({"g": {"match": "hed.*", "lr_factor": 2}})
    with pytest.raises(
        InvalidInput, match=r"group\.hed\.match: 'hed\.\*' matches no parameter.*layer0.weight.*and 2 more"
    ):
        Partition(groups, names)
    with pytest.raises(InvalidInput, match="matches no parameter that is trained"):
        Partition(read_groups({"g": {"match": "layer0.*", "lr_factor": 2}}), names, trained=names[1:])


def of_layers(*layers: str) -> dict[str, int]:
    """Return the depth of each layer's parameters, which must agree."""
    found = layer_depths([f"{layer}.{part}" for layer in layers for part in ("weight", "bias")])
    assert all(found[f"{layer}.weight"] == found[f"{layer}.bias"] for layer in layers)
    return {layer: found[f"{layer}.weight"] for layer in layers}


def test_a_flat_model_has_a_layer_for_each_module() -> None:
    assert of_layers("fc1", "fc2", "head") == {"fc1": 2, "fc2": 1, "head": 0}
    assert of_layers("0", "2", "4") == {"0": 2, "2": 1, "4": 0}
    assert of_layers("net.fc1", "net.fc2") == {"net.fc1": 1, "net.fc2": 0}
    assert layer_depths(["weight", "bias"]) == {"weight": 0, "bias": 0}
    assert layer_depths([]) == {}


def test_a_transformer_has_what_is_below_its_blocks_and_what_is_above_them_as_layers() -> None:
    names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    names += [f"blocks.{i}.{part}.weight" for i in range(3) for part in ("norm1", "attn.qkv", "mlp.0")]
    names += ["norm.weight", "head.weight"]
    found = layer_depths(names)
    assert {found[name] for name in names[:4]} == {4}
    assert [found[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [3, 2, 1]
    assert found["blocks.1.norm1.weight"] == found["blocks.1.mlp.0.weight"] == 2
    assert found["norm.weight"] == found["head.weight"] == 0
    bert = ["bert.embeddings.word.weight", "bert.encoder.layer.0.q.weight", "bert.encoder.layer.1.q.weight"]
    assert list(layer_depths([*bert, "bert.pooler.weight", "classifier.weight"]).values()) == [3, 2, 1, 0, 0]


def test_a_residual_network_has_a_layer_for_each_block_of_each_stage() -> None:
    names = ["conv1.weight", "bn1.weight", "bn1.bias"]
    names += [f"layer{s}.{b}.conv{c}.weight" for s in (1, 2) for b in (0, 1) for c in (1, 2)]
    found = layer_depths([*names, "layer2.0.downsample.0.weight", "fc.weight"])
    assert found["conv1.weight"] == found["bn1.bias"] == 5
    assert [found[f"layer{s}.{b}.conv2.weight"] for s in (1, 2) for b in (0, 1)] == [4, 3, 2, 1]
    assert found["layer2.0.downsample.0.weight"] == 2 and found["fc.weight"] == 0


def test_configurations_that_a_user_gives_have_the_documents_patterns_and_any_legal_factors() -> None:
    def enqueued(**given: Any) -> StudySpec:
        head = {"name": "a", "workload": "digits-mlp", "optimizers": ["adamw"], "run_cap": 4, "groups": ISSUE}
        return parse_study({**head, "enqueue": [given]}, load_catalogue(), {"digits-mlp"})

    legal = {"group.all.depth_decay": 0.3, "group.head.lr_factor": 4, "group.head.match": "head.*"}
    spec = enqueued(**legal)
    made = complete(legal, spec, families(spec, load_catalogue()), load_catalogue(), signature_of("digits-mlp"))
    assert groups_of(made.params) == (
        ParameterGroup("all", "*", depth_decay=0.3),
        ParameterGroup("bias", "*.bias", weight_decay_factor=0.0),
        ParameterGroup("head", "head.*", lr_factor=4.0),
    )
    left_out = complete({}, spec, families(spec, load_catalogue()), load_catalogue(), signature_of("digits-mlp"))
    assert left_out.params["group.all.depth_decay"] == 1.0 and left_out.params["group.head.lr_factor"] == 10
    for key, value in (("group.all.depth_decay", 2), ("group.head.match", "tail.*"), ("group.tail.lr_factor", 2)):
        with pytest.raises(InvalidInput) as raised:
            enqueued(**{key: value})
        assert [fault.field for fault in raised.value.faults] == [f"enqueue[0].{key}"]


def test_own_code_takes_no_groups() -> None:
    document = {"name": "a", "workload": "external", "metric": "loss", "parameters": {"lr": [1, 2]}, "run_cap": 4}
    parse_study(document, load_catalogue(), set())
    with pytest.raises(InvalidInput, match="your own code trains these trials, so leave it out") as raised:
        parse_study({**document, "groups": ISSUE}, load_catalogue(), set())
    assert [fault.field for fault in raised.value.faults] == ["groups"]
