"""Roles follow from the layers, not from names."""

import pytest
from torch import nn

from tuner.errors import InvalidInput
from tuner.optimizers import infer_roles
from tuner.optimizers.roles import check_roles, roles_of_shapes


class Small(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.words = nn.Embedding(10, 6)
        self.image = nn.Conv2d(3, 4, 2)
        self.up = nn.ConvTranspose1d(4, 2, 3)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(6, 2)
        self.scales = nn.Parameter(self.norm.weight.detach().clone().reshape(2, 2))
        self.cube = nn.Parameter(self.scales.detach().clone().reshape(1, 2, 2))
        self.hidden = nn.Linear(6, 6)
        self.out = nn.Linear(6, 10, bias=False)
        if tied:
            self.out.weight = self.words.weight


def test_each_kind_of_layer():
    assert infer_roles(Small()) == {
        "scales": "matrix",
        "cube": "vector",
        "words.weight": "embedding",
        "image.weight": "convolution",
        "image.bias": "vector",
        "up.weight": "convolution",
        "up.bias": "vector",
        "norm.weight": "vector",
        "norm.bias": "vector",
        "attention.in_proj_weight": "matrix",
        "attention.in_proj_bias": "vector",
        "attention.out_proj.weight": "matrix",
        "attention.out_proj.bias": "vector",
        "hidden.weight": "matrix",
        "hidden.bias": "vector",
        "out.weight": "head",
    }


def test_a_tied_head_appears_once_as_an_embedding():
    roles = infer_roles(Small(tied=True))
    assert roles["words.weight"] == "embedding"
    assert "out.weight" not in roles
    assert roles["hidden.weight"] == "matrix"
    assert "head" not in roles.values()


def test_names_are_those_of_named_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert infer_roles(model) == {"0.weight": "matrix", "0.bias": "vector", "2.weight": "head", "2.bias": "vector"}
    assert infer_roles(nn.Linear(3, 4)) == {"weight": "head", "bias": "vector"}
    assert infer_roles(nn.ReLU()) == {}


def test_roles_of_plain_shapes():
    shapes = {"a": (3, 4), "b": (2, 3, 4, 5), "c": (3,), "d": (2, 3, 4), "e": ()}
    assert list(roles_of_shapes(shapes).values()) == ["matrix", "convolution", "vector", "vector", "vector"]


def test_every_wrong_role_is_named():
    with pytest.raises(InvalidInput) as caught:
        check_roles(
            {"a": "matrix", "b": "matrx", "c": "head", "d": "convolution"}, {"a": (3,), "b": (2, 2), "d": (2, 2)}
        )
    assert [fault.field for fault in caught.value.faults] == ["roles.a", "roles.b", "roles.c"]
