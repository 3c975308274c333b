"""Known answers of Adam and its relatives: scale, first steps, limits, where eps stands."""

import math

import pytest
import torch

from tuner.optimizers import Stacked
from tuner.optimizers.rules.ademamix import slow_beta
from tuner.optimizers.rules.nadam import momentum_product


def steps(name, start, gradients, **hp):
    """Step one parameter of two trials through the gradients; returns the iterates, each [2, n]."""
    stack = Stacked(name, {"p": start.clone()}, hp)
    iterates = []
    for gradient in gradients:
        stack.step({"p": gradient})
        iterates.append(stack.params["p"].clone())
    return iterates


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(actual, expected, rtol=1e-13):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)


@pytest.fixture
def start():
    return torch.tensor([[1.0, -2.0, 0.5], [3.0, -0.25, 4.0]], dtype=torch.float64)


@pytest.fixture
def gradient():
    return torch.tensor([[0.3, -4.0, 1e-3], [-20.0, 0.7, 0.02]], dtype=torch.float64)


@pytest.fixture
def noise():
    return torch.randn((300, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "nadam", "nadamw", "ademamix"])
def test_without_eps_a_constant_factor_per_element_changes_nothing(name, start, noise):
    scales = vector(1e-6, 3.0, 1e7)
    plain = steps(name, start, noise[:9], lr=0.1, eps=0.0)[-1]
    close(steps(name, start, noise[:9] * scales, lr=0.1, eps=0.0)[-1], plain)


@pytest.mark.parametrize("placement", ["outside", "outside_hat", "inside"])
def test_adams_first_step_is_the_sign_wherever_an_eps_of_0_stands(placement, start, gradient):
    first = steps("adam", start, [gradient], lr=0.1, eps=0.0, eps_placement=placement)[0]
    close(first, start - 0.1 * gradient.sign())


def test_first_steps_of_the_relatives(start, gradient):
    sign, options = gradient.sign(), {"lr": 0.1, "eps": 0.0, "beta1": 0.8}
    close(steps("amsgrad", start, [gradient], **options)[0], start - 0.1 * sign)
    options["weight_decay"] = 0.0
    close(steps("nadamw", start, [gradient], **options)[0], start - 0.1 * (1 + 0.8) * sign)
    mixed = steps("ademamix", start, [gradient], beta3=0.99, alpha=4.0, **options)[0]
    close(mixed, start - 0.1 * (1 + 4 * 0.01) * sign)
    mu1, mu2 = (0.8 * (1 - 0.96 ** (t * 0.004) / 2) for t in (1, 2))
    of_moment = mu2 / (1 - mu1 * mu2) * (1 - 0.8)
    close(steps("nadam", start, [gradient], momentum_decay=0.004, **options)[0], start - 0.1 * (1 + of_moment) * sign)


def test_adams_steps_are_lr_on_constant_gradients_and_at_most_the_papers_on_rare_ones(start, gradient):
    """Kingma and Ba 2015, section 2.1: lr · (1 - beta1) / sqrt(1 - beta2) after a long time without gradients."""
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 0.0}
    before, after = steps("adam", start, [gradient] * 40, **options)[-2:]
    close(before - after, 0.1 * gradient.sign(), rtol=1e-11)
    late = Stacked("adam", {"p": start.clone()}, options)
    late.state.step.fill_(99_999)
    late.step({"p": gradient})
    close(start - late.params["p"], 0.1 * (0.1 / math.sqrt(0.001)) * gradient.sign(), rtol=1e-11)


def test_adams_steps_stay_below_the_bound_of_cauchy_and_schwarz(start, noise):
    """|m| / sqrt(v) <= (1 - beta1) / sqrt(1 - beta2) / sqrt(1 - beta1² / beta2), without bias corrections."""
    rare = noise * (noise.abs() > 1.5)
    stack = Stacked("adam", {"p": start.clone()}, {"lr": 1.0, "beta1": 0.9, "beta2": 0.99, "eps": 1e-12})
    stack.state.step.fill_(99_999)
    largest = 0.0
    for gradient in rare:
        before = stack.params["p"].clone()
        stack.step({"p": gradient})
        largest = max(largest, float((stack.params["p"] - before).abs().max()))
    assert 1.0 < largest < 0.1 / math.sqrt(0.01) / math.sqrt(1 - 0.81 / 0.99)


def test_adam_without_first_moment_is_rmsprop_with_bias_correction(start, noise):
    rate, beta2 = 0.03, 0.9
    adam = Stacked("adam", {"p": start.clone()}, {"lr": rate, "beta1": 0.0, "beta2": beta2, "eps": 0.0})
    rmsprop = Stacked("rmsprop", {"p": start.clone()}, {"alpha": beta2, "momentum": 0.0, "eps": 0.0})
    for t, gradient in enumerate(noise[:50], start=1):
        rmsprop.hp["lr"].fill_(rate * math.sqrt(1 - beta2**t))
        adam.step({"p": gradient})
        rmsprop.step({"p": gradient})
        torch.testing.assert_close(adam.params["p"], rmsprop.params["p"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("size", "factor"), [(1e-2, 0.9535), (1e-3, 0.3015), (1e-5, 0.00316)])
def test_eps_inside_of_the_root_shrinks_steps_along_small_gradients(size, factor):
    stack = Stacked("adam", {"p": torch.zeros((1, 1), dtype=torch.float64)}, {"eps": 1e-5, "eps_placement": "inside"})
    stack.step({"p": torch.full((1, 1), size, dtype=torch.float64)})
    assert float(stack.params["p"]) == pytest.approx(-1e-3 * factor, rel=1e-3)


def test_epsilon_hat_is_an_eps_outside_that_starts_large(start, noise):
    """sqrt(v̂) + eps_hat / sqrt(1 - beta2^t): the same as writing that eps anew before each step."""
    options = {"lr": 0.1, "beta2": 0.97}
    hat = Stacked("adam", {"p": start.clone()}, {**options, "eps": 0.3, "eps_placement": "outside_hat"})
    written = Stacked("adam", {"p": start.clone()}, options)
    for t, gradient in enumerate(noise[:30], start=1):
        written.hp["eps"].fill_(0.3 / math.sqrt(1 - 0.97**t))
        hat.step({"p": gradient})
        written.step({"p": gradient})
        torch.testing.assert_close(hat.params["p"], written.params["p"], rtol=1e-13, atol=1e-13)


def test_coupled_decay_without_gradients_moves_adam_by_lr_whatever_the_decays_size(start):
    nothing = [torch.zeros_like(start)] * 3
    for weight_decay in (1e-6, 1e-2):
        first, _, third = steps("adam", start, nothing, lr=1e-3, eps=0.0, weight_decay=weight_decay)
        close(first, start - 1e-3 * start.sign())
        torch.testing.assert_close(third, start - 3e-3 * start.sign(), rtol=0, atol=1e-5)


def test_amsgrads_denominator_keeps_the_largest_second_moment(start, gradient):
    """After one large gradient Adam forgets it, AMSGrad does not."""
    quiet = [gradient] + [gradient * 1e-3] * 60
    options = {"lr": 0.1, "beta1": 0.0, "beta2": 0.5, "eps": 0.0}
    before, after = steps("amsgrad", start, quiet, **options)[-2:]
    largest = math.sqrt(0.5)  # of (1 - beta2) · g², relative to g; beta2^61 is below rounding
    torch.testing.assert_close(before - after, 0.1 * 1e-3 / largest * gradient.sign(), rtol=1e-9, atol=0)
    before, after = steps("adam", start, quiet, **options)[-2:]
    torch.testing.assert_close(before - after, 0.1 * gradient.sign(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("decay", [0.0, 1e-12, 1e-4, 4e-3, 0.3, 10.0, 1e4])
def test_the_product_of_nadams_momenta_equals_the_walk(decay):
    for beta1 in (0.0, 0.5, 0.9, 0.999):
        product, walk = 1.0, []
        for t in range(1, 200):
            product *= beta1 * (1 - 0.96 ** (t * decay) / 2)
            walk.append(product)
        t = torch.arange(1, 200, dtype=torch.float64)
        found = momentum_product(t, torch.full_like(t, beta1), torch.full_like(t, decay))
        torch.testing.assert_close(found, torch.tensor(walk, dtype=torch.float64), rtol=1e-12, atol=1e-18)


def test_nadams_product_does_not_depend_on_the_position(threads):
    threads(2)
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1, 50, (1300,), generator=generator).double()
    beta1, decay = torch.rand((2, 1300), generator=generator, dtype=torch.float64) * vector(1.0, 0.1)[:, None]
    everything = momentum_product(t, beta1, decay)
    for size in (1, 2, 7, 33, 511, 512, 513, 700):
        assert torch.equal(momentum_product(t[-size:], beta1[-size:], decay[-size:]), everything[-size:])


def test_ademamix_without_its_slow_average_is_adamw(start, noise):
    options = {"lr": 0.01, "weight_decay": 0.1}
    mixed = steps("ademamix", start, noise[:50], alpha=0.0, **options)[-1]
    torch.testing.assert_close(mixed, steps("adamw", start, noise[:50], **options)[-1], rtol=1e-13, atol=1e-13)


def test_the_slow_averages_half_life_grows_linearly_from_beta1s_to_beta3s():
    progress = torch.linspace(0.125, 1, 8, dtype=torch.float64)
    beta1, beta3 = torch.full_like(progress, 0.9), torch.full_like(progress, 0.999)
    half_lives = 1 / slow_beta(progress, beta1, beta3).log()
    torch.testing.assert_close(
        half_lives, (1 - progress) / math.log(0.9) + progress / math.log(0.999), rtol=1e-11, atol=0
    )
    assert slow_beta(vector(1.0, 1.0), vector(0.9, 0.0), vector(0.999, 0.99)).tolist() == [0.999, 0.99]
    close(slow_beta(vector(0.5), vector(0.0), vector(0.99)), vector(0.99**2))
    assert slow_beta(vector(0.5), vector(0.99), vector(0.9)).tolist() == [0.9], "never above beta3"


def test_the_slow_averages_decay_does_not_depend_on_the_position():
    """Nor on strides: the engine hands over columns of a table, where one row alone counts as contiguous."""
    u = torch.rand((600, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = torch.stack([0.01 + 0.9 * u[:, 0], 0.5 + 0.48 * u[:, 1], 1 - 10 ** (-1 - 3 * u[:, 2])], 1)
    everything = slow_beta(*(column.contiguous() for column in table.unbind(1)))
    assert torch.equal(slow_beta(*table.unbind(1)), everything)
    alone = torch.cat([slow_beta(*row.reshape(1, 3).unbind(1)) for row in table])
    assert torch.equal(alone, everything)


def test_ademamixs_slow_average_warms_up_to_its_full_weight_and_stays(start, gradient):
    """After the warm-up the slow average of a constant gradient g is g · (1 - ∏ beta3(t)), with weight alpha."""
    options = {"lr": 0.1, "beta1": 0.5, "beta3": 0.9, "alpha": 3.0, "eps": 0.0, "weight_decay": 0.0, "slow_warmup": 4}
    iterates = [start, *steps("ademamix", start, [gradient] * 7, **options)]
    t = torch.arange(1, 8, dtype=torch.float64)
    betas = slow_beta((t / 4).clamp(max=1), torch.full_like(t, 0.5), torch.full_like(t, 0.9))
    for n in range(7):
        weight = min((n + 1) / 4, 1) * 3 * (1 - float(betas[: n + 1].prod()))
        close(iterates[n] - iterates[n + 1], 0.1 * (1 + weight) * gradient.sign(), rtol=1e-11)
