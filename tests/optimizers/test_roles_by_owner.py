"""A parameter's role is what its module makes of it, whatever its shape."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from tuner.optimizers import build, infer_roles

NORMS = [
    nn.LayerNorm((5, 7)),
    nn.LayerNorm((2, 5, 7)),
    nn.LayerNorm(()),
    nn.RMSNorm((5, 7)),
    nn.GroupNorm(2, 4),
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.BatchNorm3d(4),
    nn.SyncBatchNorm(4),
    nn.InstanceNorm2d(4, affine=True),
]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: str(norm).partition(",")[0])
def test_gains_and_shifts_of_normalisation_are_vectors(norm):
    roles = infer_roles(nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 3)))
    assert {role for name, role in roles.items() if name.startswith("1.")} == {"vector"}


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(module)


PARAMETRIZED = {
    "weight_norm": (parametrizations.weight_norm, {"parametrizations.weight.original0": "vector"}, "original1"),
    "weight_norm, the old way": (old_weight_norm, {"weight_g": "vector"}, "weight_v"),
    "spectral_norm": (parametrizations.spectral_norm, {}, "original"),
    "spectral_norm, the old way": (torch.nn.utils.spectral_norm, {}, "weight_orig"),
}
LAYERS = {
    "matrix": lambda: nn.Linear(4, 6),
    "convolution": lambda: nn.Conv2d(3, 4, 2),
    "embedding": lambda: nn.Embedding(9, 4),
}


@pytest.mark.parametrize("kind", PARAMETRIZED)
@pytest.mark.parametrize("role", LAYERS)
def test_a_computed_kernels_parts_are_a_kernel_and_vectors(kind, role):
    change, others, kernel = PARAMETRIZED[kind]
    roles = infer_roles(nn.Sequential(change(LAYERS[role]()), nn.Linear(4, 2)))
    own = {name.removeprefix("0."): found for name, found in roles.items() if name.startswith("0.")}
    (name,) = [name for name in own if name.endswith(kernel)]
    assert own.pop(name) == role
    own.pop("bias", None)
    assert own == others
    assert roles["1.weight"] == "head"


def test_the_last_linear_layer_is_the_head_under_a_parametrization_too():
    for change in (parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal):
        roles = infer_roles(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), change(nn.Linear(4, 3))))
        assert roles["0.weight"] == "matrix"
        assert next(name for name, role in roles.items() if role == "head").startswith("2.parametrizations.weight")


def test_a_layer_of_one_input_has_its_direction_as_kernel():
    roles = infer_roles(nn.Sequential(parametrizations.weight_norm(nn.Linear(1, 3)), nn.Linear(3, 1)))
    assert roles["0.parametrizations.weight.original0"] == "vector"
    assert roles["0.parametrizations.weight.original1"] == "matrix"


class Low(nn.Module):
    """A trainable change of low rank, as LoRA makes it."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.zeros(6, 2)), nn.Parameter(torch.ones(2, 4))

    def forward(self, weight):
        return weight + self.up @ self.down


def test_matrices_of_a_parametrization_of_ones_own_are_matrices():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    register_parametrization(model[0], "weight", Low())
    roles = infer_roles(model)
    assert {role for name, role in roles.items() if name.startswith("0.parametrizations")} == {"matrix"}


def test_inferring_roles_changes_no_buffer():
    """A weight under `spectral_norm` makes a step of power iteration whenever it is computed."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)))
    before = copy.deepcopy(model.state_dict())
    infer_roles(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_vectors_spares_gains_of_two_dims_and_muon_leaves_them_to_adamw():
    model = nn.Sequential(nn.LayerNorm((5, 7)), nn.Flatten(), nn.Linear(35, 2))
    optimizer = build("sgd", model, lr=1.0, weight_decay=0.5, weight_decay_roles="no_vectors")
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[2].weight, before["2.weight"] * 0.5)
    muon = build("muon", model, lr=0.1, weight_decay=0.0)
    model[0].weight.grad = torch.ones(5, 7)
    muon.step()
    # AdamW's first step is lr in every element; an orthogonal one of rank 1 would be lr / √35
    assert torch.allclose(before["0.weight"] - model[0].weight, torch.tensor(0.1 * 0.3))
