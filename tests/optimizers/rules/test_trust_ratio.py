"""LARS and LAMB: the length of each tensor's step is lr times its trust ratio times its own length."""

import pytest
import torch

from tuner.optimizers import Stacked

DOUBLE = torch.float64
ROLES = {"w": "matrix", "b": "vector"}


@pytest.fixture
def start():
    generator = torch.Generator().manual_seed(0)
    draw = {"w": (3, 7, 5), "b": (3, 7)}
    return {name: torch.randn(shape, generator=generator, dtype=DOUBLE) for name, shape in draw.items()}


@pytest.fixture
def grads():
    generator = torch.Generator().manual_seed(1)
    return {
        "w": torch.randn(3, 7, 5, generator=generator).double(),
        "b": torch.randn(3, 7, generator=generator).double(),
    }


def moved(name, start, grads, **hp):
    stack = Stacked(name, {key: p.clone() for key, p in start.items()}, hp, roles=ROLES)
    stack.step(grads)
    return {key: start[key] - stack.params[key] for key in start}


def length(tensor):
    return tensor.flatten(1).norm(dim=1)


@pytest.mark.parametrize("excluded", ["vectors", "none"])
def test_a_lamb_step_is_lr_long_in_units_of_the_tensor(start, grads, excluded):
    lr = torch.tensor([0.1, 0.02, 3.0], dtype=DOUBLE)
    step = moved("lamb", start, grads, lr=lr, weight_decay=0.3, excluded=excluded)
    torch.testing.assert_close(length(step["w"]), lr * length(start["w"]), rtol=1e-13, atol=0)
    if excluded == "none":
        torch.testing.assert_close(length(step["b"]), lr * length(start["b"]), rtol=1e-13, atol=0)
    else:  # Adam's first step, without decay
        torch.testing.assert_close(step["b"], lr[:, None] * grads["b"].sign(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("excluded", ["vectors", "none"])
def test_a_lars_step_is_lr_times_the_trust_coefficient_long_in_units_of_the_tensor(start, grads, excluded):
    lr, trust = torch.tensor([0.1, 2.0, 3.0], dtype=DOUBLE), torch.tensor([1e-3, 0.02, 0.5], dtype=DOUBLE)
    step = moved("lars", start, grads, lr=lr, trust_coefficient=trust, weight_decay=0.3, excluded=excluded)
    torch.testing.assert_close(length(step["w"]), lr * trust * length(start["w"]), rtol=1e-12, atol=0)
    if excluded == "none":
        torch.testing.assert_close(length(step["b"]), lr * trust * length(start["b"]), rtol=1e-12, atol=0)
    else:
        torch.testing.assert_close(step["b"], lr[:, None] * grads["b"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_the_ratio_is_1_where_the_tensor_or_its_step_is_0(name, start, grads):
    start["w"][0], grads["w"][1] = 0, 0
    step = moved(name, start, grads, lr=0.5, weight_decay=0.0, excluded="none")
    expected = grads["w"][0].sign() if name == "lamb" else grads["w"][0]
    torch.testing.assert_close(step["w"][0], 0.5 * expected, rtol=1e-4, atol=0)
    assert (step["w"][1] == 0).all()
    assert length(step["w"])[2] > 0


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_the_scale_of_gradients_does_not_matter(name, start, grads):
    scale = torch.tensor([1e-5, 4.0, 1e6], dtype=DOUBLE)[:, None, None]
    hp = {"weight_decay": 0.0, **({"eps": 0.0} if name == "lamb" else {})}
    plain = moved(name, start, grads, **hp)["w"]
    scaled = moved(name, start, {**grads, "w": grads["w"] * scale}, **hp)["w"]
    torch.testing.assert_close(scaled, plain, rtol=1e-12, atol=1e-15)
