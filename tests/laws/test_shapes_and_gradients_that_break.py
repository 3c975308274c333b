"""Every rule, as a stack and in torch: shapes of no dims or no elements, and gradients that are not finite."""

import math

import pytest
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import rule_class

RULES = list(catalogue())
TRIALS, STEPS = 2, 3
BESIDE = {"matrix": (3, 4), "kernel": (2, 2, 2, 2), "vector": (3,)}


class Bowl:
    """Σ (p - 1)² / 2 over all parameters of each trial, with its gradient and Hessian."""

    def __init__(self, trials=TRIALS):
        self.trials = trials

    def __call__(self, params):
        losses = [((param - 1) ** 2 / 2).reshape(self.trials, -1).sum(1) for param in params.values() if param.numel()]
        return sum(losses).double(), {name: param - 1 for name, param in params.items()}

    def hessian_vector(self, params, vectors):
        return {name: vector.clone() for name, vector in vectors.items()}


def start(shapes, trials=TRIALS):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(trials, *shape, generator=generator) * 2 for name, shape in shapes.items()}


def options(name):
    """Return hyperparameters with which every rule moves everything in a few steps."""
    return {"block_size": 100} if name == "coordinate_descent" else {}


def stacked(name, params, **hp):
    stack = Stacked(name, params, {**options(name), **hp})
    for _ in range(STEPS):
        stack.step(Bowl()(stack.params)[1], Bowl())
    return stack.params


def built(name, params, **hp):
    """Train each trial with a torch optimizer of its own; returns what `stacked` returns."""
    found = []
    for trial in range(TRIALS):
        leaves = {key: nn.Parameter(value[trial].clone()) for key, value in params.items()}
        optimizer = build(name, leaves.items(), **options(name), **hp)

        def closure(leaves=leaves, optimizer=optimizer):
            optimizer.zero_grad()
            loss = sum(((leaf - 1) ** 2 / 2).sum() for leaf in leaves.values())
            if not rule_class(name).needs_curvature:
                loss.backward()
            return loss

        for _ in range(STEPS):
            optimizer.step(closure)
        found.append(leaves)
    return {key: torch.stack([leaves[key].detach() for leaves in found]) for key in params}


TRAINED = {"stacked": stacked, "built": built}


@pytest.mark.parametrize("surface", TRAINED)
@pytest.mark.parametrize("name", RULES)
def test_a_parameter_without_dims_is_trained_as_one_of_one_element(name, surface):
    params = start({"scale": (), **BESIDE})
    as_vector = {key: value[:, None] if key == "scale" else value for key, value in params.items()}
    train = TRAINED[surface]
    found = train(name, {key: value.clone() for key, value in params.items()})
    expected = train(name, {key: value.clone() for key, value in as_vector.items()})
    assert found["scale"].shape == (TRIALS,)
    assert torch.equal(found["scale"], expected["scale"][:, 0])
    assert not torch.equal(found["scale"], params["scale"])
    alone = train(name, {"scale": params["scale"].clone()})["scale"]
    assert alone.isfinite().all() and not torch.equal(alone, params["scale"])


@pytest.mark.parametrize("surface", TRAINED)
@pytest.mark.parametrize("name", RULES)
def test_parameters_without_elements_change_nothing(name, surface):
    with_them = start({"no rows": (0, 3), **BESIDE, "empty": (0,), "no kernels": (0, 2, 2, 2), "no columns": (3, 0)})
    without = {key: value for key, value in with_them.items() if key in BESIDE}
    train = TRAINED[surface]
    clip = {"clip_norm": 0.1} if catalogue()[name].hyperparameter("clip_norm") else {}
    found = train(name, {key: value.clone() for key, value in with_them.items()}, **clip)
    expected = train(name, {key: value.clone() for key, value in without.items()}, **clip)
    for key, value in with_them.items():
        assert found[key].shape == value.shape
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", RULES)
def test_what_cannot_be_trained_is_refused_at_construction(name):
    with pytest.raises(InvalidInput, match="no elements"):
        Stacked(name, {"p": torch.zeros(2, 0, 3)}, {})
    for wrong in (torch.complex64, torch.float16, torch.int32):
        with pytest.raises(InvalidInput, match="allowed are float32 and float64"):
            Stacked(name, {"p": torch.zeros(2, 3, dtype=wrong)}, {})
        with pytest.raises(InvalidInput, match="allowed are float32 and float64"):
            build(name, [torch.zeros(3, dtype=wrong)])
    for role in ("matrix", "convolution", "embedding", "head"):
        for shape in ((), (3,)):
            with pytest.raises(InvalidInput, match=f"a {role} needs two dims"):
                build(name, [("p", nn.Parameter(torch.zeros(shape)))], roles={"p": role})
    nothing = nn.Parameter(torch.zeros(0, 3))
    build(name, [nothing]).step(lambda: nothing.sum())


@pytest.mark.parametrize(("value", "when"), [(math.nan, 0), (-math.inf, 1)])
@pytest.mark.parametrize("clipping", [{}, {"clip_value": 0.5, "clip_norm": 0.5}])
@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_shows_in_its_parameter(name, clipping, value, when):
    """In one element of another parameter of each trial, in one step; trials without one keep their bits."""
    if clipping and not catalogue()[name].hyperparameter("clip_norm"):
        return
    shapes = {"kernel": (2, 2, 2, 2), "matrix": (3, 4), "head": (3, 2), "embedding": (4, 2), "vector": (3,)}
    trials, roles = 2 + len(shapes), {"head": "head", "embedding": "embedding"}
    params, healthy = start(shapes, trials), [0, trials - 1]
    loss = Bowl(trials)
    clean, ill = (
        Stacked(name, {key: p.clone() for key, p in params.items()}, {**options(name), **clipping}, roles)
        for _ in range(2)
    )
    for step in range(when + 2):
        clean.step(loss(clean.params)[1], loss)
        grads = loss(ill.params)[1]
        for trial, grad in enumerate(grads.values() if step == when else (), start=1):
            grad[trial].view(-1)[1] = value
        ill.step(grads, loss)
    for trial, (key, param) in enumerate(ill.params.items(), start=1):
        assert not param[trial].isfinite().all(), key
        assert torch.equal(param[healthy], clean.params[key][healthy])


def test_clipping_has_the_same_bits_beside_any_neighbours():
    """Beyond a million elements torch.sum splits a lone row among threads, and so rounds it in another order."""
    threads, generator = torch.get_num_threads(), torch.Generator().manual_seed(0)
    grads = torch.randn(5, 2**20 + 17, generator=generator, dtype=torch.float64)

    def clipped(chosen):
        stack = Stacked("gd", {"p": torch.zeros_like(grads[chosen])}, {"lr": 1.0, "clip_norm": 0.1})
        stack.step({"p": grads[chosen]})
        return stack.params["p"]

    torch.set_num_threads(2)
    try:
        together = clipped(list(range(5)))
        assert all(torch.equal(clipped([trial])[0], together[trial]) for trial in range(5))
    finally:
        torch.set_num_threads(threads)
