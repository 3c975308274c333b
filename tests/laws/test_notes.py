"""What lecture notes and folklore say of optimizers, each claim with its answer, shown on gradients drawn at random."""

import pytest
import torch

from tuner.optimizers import Stacked

SHAPE = (1, 12)


def gradients(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectory(name, series, lr=0.01, **hp):
    """Return the parameters after each step, [steps, 12]; `lr` is a number or one per step."""
    params = {"w": torch.ones(SHAPE, dtype=torch.float64)}
    stack = Stacked(name, params, {"lr": 0.0, **hp})
    rows = []
    for step, grad in enumerate(series):
        stack.hp["lr"].fill_(lr if isinstance(lr, float) else float(lr[step]))
        stack.step({"w": grad})
        rows.append(params["w"].clone())
    return torch.cat(rows)


def gap(left, right):
    return float((left - right).abs().max())


def test_adam_is_not_rmsprop_with_momentum():
    """Claim: Adam is RMSprop with momentum. Answer: no. RMSprop accumulates normalised gradients, Adam normalises
    the averaged gradient, so a gradient of an unusual size is weighed differently for as long as it is remembered.
    """
    sizes = torch.where(torch.arange(200) % 20 == 0, 30.0, 1.0)[:, None, None]
    series = gradients(200) * sizes
    adam = trajectory("adam", series, lr=0.01, beta1=0.9, beta2=0.9, eps=0.0)
    rmsprop = trajectory("rmsprop", series, lr=0.01 * (1 - 0.9), momentum=0.9, alpha=0.9, eps=0.0)
    travelled = float((adam[-1] - 1).abs().mean())
    assert gap(adam, rmsprop) > 0.2 * travelled


def test_adam_without_first_moment_is_rmsprop_with_a_corrected_learning_rate():
    """Where they meet, first: beta1 = 0 and no momentum. What is left is Adam's bias correction of v, a factor
    sqrt(1 - beta2^t) of the learning rate.
    """
    series, beta2 = gradients(50), 0.99
    factor = torch.sqrt(1 - beta2 ** torch.arange(1, 51, dtype=torch.float64))
    adam = trajectory("adam", series, lr=0.01, beta1=0.0, beta2=beta2, eps=0.0)
    rmsprop = trajectory("rmsprop", series, lr=(0.01 * factor).tolist(), alpha=beta2, eps=0.0)
    torch.testing.assert_close(adam, rmsprop, rtol=1e-12, atol=1e-12)


def test_adam_and_rmsprop_with_momentum_meet_where_the_gradients_size_is_constant():
    """Where they meet, second: gradients of one size. Then the order of averaging and normalising does not matter and,
    once the start is forgotten, Adam steps like RMSprop with lr · (1 - momentum).
    """
    series = gradients(600).sign() * 0.3
    adam = trajectory("adam", series, lr=0.01, beta1=0.9, beta2=0.9, eps=0.0).diff(dim=0)
    rmsprop = trajectory("rmsprop", series, lr=0.001, momentum=0.9, alpha=0.9, eps=0.0).diff(dim=0)
    assert gap(adam[0], rmsprop[0]) > 1e-3
    torch.testing.assert_close(adam[-50:], rmsprop[-50:], rtol=1e-9, atol=1e-13)


def test_a_clip_that_always_bites_equally_does_not_change_adam():
    """Claim: clipping makes Adam's steps smaller. Answer: not by itself. Gradients of one norm are scaled by one
    constant, and Adam (eps 0) does not see constants.
    """
    series = gradients(100)
    series = 10 * series / series.flatten(1).norm(dim=1)[:, None, None]
    free = trajectory("adam", series, eps=0.0)
    torch.testing.assert_close(trajectory("adam", series, eps=0.0, clip_norm=1.0), free, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trajectory("adam", series * 1e-3, eps=0.0), free, rtol=1e-12, atol=1e-12)
    sgd = trajectory("sgd", series)
    assert gap(trajectory("sgd", series, clip_norm=1.0), sgd) > 0.5 * gap(sgd, torch.ones_like(sgd))


def test_a_clip_that_bites_now_and_then_changes_adam():
    """The other half: a clip that cuts some gradients and leaves others changes their weights in both moments."""
    sizes = torch.where(torch.arange(100) % 10 == 0, 50.0, 1.0)[:, None, None]
    series = gradients(100) * sizes
    free, clipped = trajectory("adam", series, eps=0.0), trajectory("adam", series, eps=0.0, clip_norm=5.0)
    assert gap(free, clipped) > 0.1 * gap(free, torch.ones_like(free))


def test_l2_and_decoupled_decay_agree_for_sgd():
    """Claim: weight decay is L2 regularisation. Answer: for plain SGD, yes: p - lr (g + λp) = (1 - lr λ) p - lr g."""
    series = gradients(100)
    modes = [trajectory("sgd", series, weight_decay=0.1, weight_decay_mode=mode) for mode in ("l2", "decoupled")]
    torch.testing.assert_close(*modes, rtol=1e-12, atol=1e-12)


def test_l2_and_decoupled_decay_differ_for_adam():
    """The other half: in Adam the L2 term is normalised along with the gradient, so parameters with large gradients
    hardly decay; decoupled decay shrinks all alike.
    """
    series = gradients(100) * torch.logspace(-2, 2, 12, dtype=torch.float64)
    decay = {"weight_decay": 0.1, "eps": 0.0}
    pulls = {
        mode: trajectory("adam", series, **decay, weight_decay_mode=mode)[-1]
        - trajectory("adam", series, weight_decay=0.0, eps=0.0)[-1]
        for mode in ("l2", "decoupled")
    }
    torch.testing.assert_close(pulls["decoupled"], pulls["decoupled"][:1].expand(12), rtol=0.6, atol=0.0)
    assert abs(float(pulls["l2"][-1])) < 0.01 * abs(float(pulls["l2"][0]))


def velocity_form(series, lrs, momentum=0.9):
    """Return the iterates of v ← momentum · v + lr · g;  p ← p - v."""
    p, v, rows = torch.ones(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64), []
    for grad, lr in zip(series, lrs, strict=True):
        v = momentum * v + lr * grad
        p = p - v
        rows.append(p)
    return torch.cat(rows)


def test_the_velocity_form_equals_torchs_at_a_constant_learning_rate_only():
    """Claim: v ← μv + lr·g is the same momentum. Answer: while lr is constant. When lr drops, the velocity keeps the
    old one's size for a while; torch's buffer knows no lr and slows down at once.
    """
    series = gradients(60)
    torch.testing.assert_close(
        velocity_form(series, [0.01] * 60),
        trajectory("momentum", series, lr=0.01, momentum=0.9),
        rtol=1e-12,
        atol=1e-12,
    )
    dropping = [0.01] * 30 + [0.001] * 30
    theirs, torchs = velocity_form(series, dropping), trajectory("momentum", series, lr=dropping, momentum=0.9)
    torch.testing.assert_close(theirs[:30], torchs[:30], rtol=1e-12, atol=1e-12)
    assert gap(theirs[30:], torchs[30:]) > 0.01


@pytest.mark.parametrize(("size", "shrink"), [(1e-2, 0.953), (1e-3, 0.30), (1e-5, 0.003)])
def test_eps_inside_the_root_shrinks_small_steps(size, shrink):
    """Claim: where eps stands is a matter of taste. Answer: inside the root it is a floor of sqrt(eps): with 1e-5
    gradients below 3e-3 hardly move anything, where torch's placement takes a full step.
    """
    grad = torch.full((1, *SHAPE), size, dtype=torch.float64)
    options = {"lr": 0.1, "beta2": 0.99}
    inside = 1 - trajectory("adam", grad, **options, eps=1e-5, eps_placement="inside")
    outside = 1 - trajectory("adam", grad, **options, eps=1e-12, eps_placement="outside")
    torch.testing.assert_close(outside, torch.full_like(outside, 0.1), rtol=1e-6, atol=0.0)
    exact = size / (size**2 + 1e-5) ** 0.5
    assert exact == pytest.approx(shrink, rel=0.06)
    torch.testing.assert_close(inside / outside, torch.full_like(inside, exact), rtol=1e-6, atol=0.0)
