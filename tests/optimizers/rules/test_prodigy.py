"""Prodigy: its estimate never falls, is one per trial, and starts again with each new trial."""

import prodigyopt
import pytest
import torch

from tuner.optimizers import Stacked, build

DOUBLE = torch.float64
SHAPES = {"w": (4, 3), "b": (4,)}


def draw(trials, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(trials, *shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def bowl(params, step):
    """Gradients of |p - 5|² / 20 with a little noise."""
    noise = draw(1, seed=step)
    return {name: (p - 5) / 10 + 0.05 * noise[name].to(p.dtype) for name, p in params.items()}


@pytest.mark.parametrize("safeguard", ["off", "on"])
def test_the_estimate_never_falls_and_grows_to_the_size_of_the_way(safeguard):
    """Per trial: each has its own start, its own d_coef and its own bound on growth, which holds once d has left d0."""
    hp = {"d_coef": torch.tensor([0.5, 1.0, 2.0]), "growth_rate": torch.tensor([1e30, 1e30, 1.02])}
    stack = Stacked("prodigy", draw(3, dtype=torch.float32), {**hp, "safeguard_warmup": safeguard})
    last = torch.zeros(3)
    for step in range(300):
        stack.step(bowl(stack.params, step))
        d = stack.state.trial["d"].clone()
        assert (d >= last).all()
        assert last[2] < 1.1e-6 or d[2] <= last[2] * 1.0200001
        last = d
    assert (last[:2] > 1e-2).all() and (last < 10).all() and last[2] > 1e-4


def test_a_new_trial_in_an_old_slot_has_an_estimate_of_its_own():
    """Only a step count of 0, and zeros for state, mark a new trial."""
    old = Stacked("prodigy", draw(2), {})
    for step in range(30):
        old.step(bowl(old.params, step))
    fresh = draw(1, seed=9)
    for name, param in old.params.items():
        param[1] = fresh[name][0]
    for tensor in old.state.tensors().values():
        tensor[1] = 0
    old.state.step[1] = 0
    old.state.counts = (30, 0)
    alone = Stacked("prodigy", {name: p.clone() for name, p in fresh.items()}, {})
    for step in range(20):
        old.step(bowl(old.params, step))
        alone.step(bowl(alone.params, step))
    assert torch.equal(old.params["w"][1], alone.params["w"][0])
    assert torch.equal(old.state.trial["d"][1], alone.state.trial["d"][0])


def test_without_any_gradient_nothing_moves_not_even_by_decay():
    start = draw(2)
    stack = Stacked("prodigy", {name: p.clone() for name, p in start.items()}, {"weight_decay": 0.1})
    stack.step({name: torch.zeros_like(p) for name, p in start.items()})
    assert all(torch.equal(stack.params[name], p) for name, p in start.items())
    assert stack.state.trial["d"].tolist() == [1e-6, 1e-6]


def leaves(seed):
    return [torch.nn.Parameter(p[0].clone()) for p in draw(1, seed).values()]


def follow(optimizers, params, steps):
    for step in range(steps):
        gradients = bowl({name: param.detach()[None] for name, param in zip(SHAPES, params, strict=True)}, step)
        for param, gradient in zip(params, gradients.values(), strict=True):
            param.grad = gradient[0].clone()
        for optimizer in optimizers:
            optimizer.step()


def test_each_parameter_group_of_a_torch_optimizer_has_its_own_estimate():
    """The package shares one estimate; here two groups are two optimizers, as the rule's header says."""
    together, apart = leaves(1), leaves(1)
    grouped = build("prodigy", [{"params": [together[0]]}, {"params": [together[1]], "d_coef": 2.0}])
    follow([grouped], together, 25)
    follow([build("prodigy", [apart[0]]), build("prodigy", [apart[1]], d_coef=2.0)], apart, 25)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    estimates = [float(grouped.state[param]["trial_d"]) for param in together]
    assert estimates[0] != estimates[1]


def test_one_group_is_the_package():
    ours, theirs = leaves(2), leaves(2)
    follow([build("prodigy", ours, weight_decay=0.01, d0=1e-3)], ours, 50)
    follow([prodigyopt.Prodigy(theirs, weight_decay=0.01, d0=1e-3)], theirs, 50)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)
