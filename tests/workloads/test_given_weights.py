"""A pretrained model is where trials start, and it is never written to, in whatever form it is given."""

import copy
from collections.abc import Callable

import pytest
import torch
from engine_cases import run_until_idle, spec
from torch import nn
from torch.nn.functional import cross_entropy

from tuner.engine import Stack
from tuner.errors import InvalidInput
from tuner.workloads import Task

X = torch.randn(24, 7, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 3


def pretrained() -> nn.Sequential:
    """Weights that no initialisation gives, dropout and buffers included."""
    model = nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + place)
        model[1].running_mean.fill_(0.25)
    return model.eval()


def task(model: nn.Module | Callable[[], nn.Module], **fields: bool) -> Task:
    return Task(model, cross_entropy, (X, Y), (X, Y), **fields)


FORMS: dict[str, Callable[[nn.Sequential], nn.Module | Callable[[], nn.Module]]] = {
    "the module": lambda given: given,
    "a factory that returns it": lambda given: lambda: given,
    "a factory around its parts": lambda given: lambda: nn.Sequential(*given),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_trials_start_from_given_weights_and_leave_the_module_alone(form: str, dtype: torch.dtype) -> None:
    given = pretrained()
    before = copy.deepcopy(given)
    stack = Stack(task(FORMS[form](given)), width=2, micro_batch=4, dtype=dtype)
    for seed in (1, 2):
        slot = stack.admit(spec(seed, "sgd", lr=0.1, seed=seed, batch_size=8, examples=32))
        assert slot is not None
        for name, value in before.state_dict().items():
            assert torch.equal(stack.weights(slot)[name], value.to(stack.weights(slot)[name].dtype)), name
    run_until_idle(stack, [])
    assert [type(part) for part in given.modules()] == [type(part) for part in before.modules()]
    assert not any(part.training for part in given.modules())
    for name, value in before.state_dict().items():
        assert torch.equal(given.state_dict()[name], value) and given.state_dict()[name].dtype == value.dtype, name
    assert all(parameter.grad is None for parameter in given.parameters())


def test_a_new_head_on_a_pretrained_body_differs_by_seed_and_the_body_does_not() -> None:
    body = pretrained()[0]
    built = [task(lambda: nn.Sequential(body, nn.Linear(6, 3))).build_model(seed).state_dict() for seed in (1, 2)]
    assert torch.equal(built[0]["0.weight"], built[1]["0.weight"])
    assert not torch.equal(built[0]["1.weight"], built[1]["1.weight"])


def test_a_reset_of_a_given_module_is_asked_for_by_name() -> None:
    given = pretrained()
    before = copy.deepcopy(given.state_dict())
    fresh = [task(given, fresh=True).build_model(seed).state_dict()["0.weight"] for seed in (1, 2, 1)]
    assert not torch.equal(fresh[0], fresh[1]) and torch.equal(fresh[0], fresh[2])
    assert not torch.equal(fresh[0], before["0.weight"])
    assert all(torch.equal(given.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(InvalidInput, match="fresh: is true, but model is a callable"):
        task(lambda: given, fresh=True)
