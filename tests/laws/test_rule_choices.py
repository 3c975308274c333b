"""Isolation of elementwise rules under every choice that is not the default: no trial sees another, bit for bit."""

import pytest
import torch
from rule_oracles import ROLES, Quadratic, configurations

from tuner.optimizers import Stacked, catalogue
from tuner.optimizers.catalogue import rule_class

CASES = [
    (name, {h.name: choice})
    for name in catalogue()
    if rule_class(name).elementwise
    for h in rule_class(name).hyperparameters
    for choice in h.choices
    if choice != h.default
]
CASES += [("momentum", {"dampening": 0.5}), ("rmsprop", {"centered": "yes", "eps_placement": "inside"})]


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: worker processes that spin on each other's cores are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(name, choices, start, hp):
    problem = Quadratic(torch.float32)
    stack = Stacked(name, {key: value.clone() for key, value in start.items()}, {**hp, **choices}, roles=ROLES)
    for step in range(5):
        stack.step(problem.gradients(stack.params, step), problem.at(step))
    return {**stack.params, **stack.state.tensors()}


@pytest.mark.parametrize(("name", "choices"), CASES)
def test_neighbours_and_place_change_no_bit(name, choices):
    start, hp = Quadratic(torch.float32).start(33), configurations(name, 33)
    everything = run(name, choices, start, hp)
    assert all(value.isfinite().all() for value in everything.values())
    sick = {key: value.clone() for key, value in start.items()}
    for value in sick.values():
        value[5] = torch.nan
    ill = run(name, choices, sick, hp)
    for size in (1, 2, 7, 16, 32):
        chosen = torch.randperm(33, generator=torch.Generator().manual_seed(size))[:size]
        some = run(name, choices, {k: v[chosen] for k, v in start.items()}, {k: v[chosen] for k, v in hp.items()})
        healthy = chosen[chosen != 5]
        for key, value in everything.items():
            assert torch.equal(some[key], value[chosen]), key
            assert torch.equal(ill[key][healthy], value[healthy]), key
    assert any(value[5].isnan().any() for value in ill.values())
