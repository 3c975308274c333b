"""Choices of first-order rules that torch lacks against optax under jax.vmap, each trial with its own values.

Conventions: optax.amsgrad corrects the second moment before it takes the maximum, optax.nadamw corrects momentum and
gradient each by its own number of steps, and optax.adagrad has its eps inside of the root: none of them is our rule, so
they are not here. optax's RMSprop applies lr before its momentum, which is the same while lr is constant.
"""

import warnings

import pytest
import torch

from tuner.optimizers import Stacked

TRIALS, STEPS, SIZE = 4, 120, 7


def between(low, high):
    """One value per trial, log-spaced."""
    return torch.logspace(*torch.tensor([low, high], dtype=torch.float64).log10().tolist(), TRIALS, dtype=torch.float64)


ADAM = {"lr": between(1e-3, 0.1), "beta1": between(0.5, 0.95), "beta2": between(0.9, 0.999)}
SEED = {"lr": between(1e-3, 0.1), "beta2": 0.99, "eps": 1e-5, "eps_placement": "inside"}
"""An Adam whose eps stands inside of the root."""
RMSPROP = {"lr": between(1e-3, 0.03), "alpha": between(0.8, 0.99), "momentum": between(0.1, 0.9)}
SLOW = {"beta3": between(0.99, 0.999), "alpha": between(2.0, 8.0), "eps": 1e-8, "weight_decay": between(1e-3, 0.1)}
CASES = {
    "adam inside": ("adam", {**ADAM, "eps": between(1e-8, 1e-2), "eps_placement": "inside"}),
    "adam of the seed": ("adam", SEED),
    "rmsprop inside": ("rmsprop", {**RMSPROP, "eps": between(1e-6, 1e-2), "eps_placement": "inside"}),
    "rmsprop centered inside": ("rmsprop", {**RMSPROP, "eps": 1e-3, "centered": "yes", "eps_placement": "inside"}),
    "ademamix warming": (
        "ademamix",
        {**ADAM, **SLOW, "slow_warmup": torch.tensor([1.0, 50.0, 120.0, 300.0], dtype=torch.float64)},
    ),
}


@pytest.fixture(scope="module")
def jax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax

        before = jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", True)
        yield jax
        jax.config.update("jax_enable_x64", before)


def transformation(name, hp):
    """Return optax's optimizer for hyperparameters that are numbers or traced."""
    import optax

    if name == "adam":
        inside = hp.get("eps_placement") == "inside"
        places = {"eps": 0.0 if inside else hp["eps"], "eps_root": hp["eps"] if inside else 0.0}
        return optax.adam(hp["lr"], b1=hp.get("beta1", 0.9), b2=hp["beta2"], **places)
    if name == "rmsprop":
        choices = {"eps_in_sqrt": hp.get("eps_placement") == "inside", "centered": hp.get("centered") == "yes"}
        return optax.rmsprop(hp["lr"], hp["alpha"], hp["eps"], momentum=hp["momentum"], **choices)
    beta3, alpha = slow_schedules(hp)
    betas = (hp["beta1"], hp["beta2"], beta3)
    return optax.contrib.ademamix(hp["lr"], *betas, alpha, eps=hp["eps"], weight_decay=hp["weight_decay"])


def slow_schedules(hp):
    """The schedulers of AdEMAMix as the paper writes them; optax counts steps from 0."""
    import jax.numpy as jnp

    low, high, length = jnp.log(hp["beta1"]), jnp.log(hp["beta3"]), hp["slow_warmup"]

    def beta3(count):
        x = (count + 1) / length
        return jnp.minimum(jnp.exp(low * high / ((1 - x) * high + x * low)), hp["beta3"])

    return beta3, lambda count: jnp.minimum((count + 1) * hp["alpha"] / length, hp["alpha"])


def run_optax(jax, name, hp, start, gradients):
    """Return the parameters after all gradients [steps, T, n]; numbers among `hp` are the same for all trials."""
    own = {key: jax.numpy.asarray(value.numpy()) for key, value in hp.items() if isinstance(value, torch.Tensor)}
    shared = {key: value for key, value in hp.items() if key not in own}

    def one_trial(own_hp, param, grads):
        optimizer = transformation(name, {**shared, **own_hp})

        def step(carry, grad):
            updates, state = optimizer.update(grad, carry[1], carry[0])
            return (carry[0] + updates, state), None

        return jax.lax.scan(step, (param, optimizer.init(param)), grads)[0][0]

    stacked = jax.jit(jax.vmap(one_trial, in_axes=(0, 0, 1)))
    return torch.tensor(jax.device_get(stacked(own, start.numpy(), gradients.numpy())))


@pytest.mark.parametrize("case", CASES)
def test_a_stack_equals_optax_under_vmap(case, jax):
    name, hp = CASES[case]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((TRIALS, SIZE), generator=generator, dtype=torch.float64)
    gradients = torch.randn((STEPS, TRIALS, SIZE), generator=generator, dtype=torch.float64)
    stack = Stacked(name, {"p": start.clone()}, hp)
    for gradient in gradients:
        stack.step({"p": gradient})
    torch.testing.assert_close(stack.params["p"], run_optax(jax, name, hp, start, gradients), rtol=1e-12, atol=1e-12)
