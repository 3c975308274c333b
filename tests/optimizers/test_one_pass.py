"""The compiled step of `build`: the same optimizer, one pass over memory, whatever the sizes of the tensors."""

import importlib
import math

import pytest
import torch

from tuner.optimizers import build, one_pass

needs_compiler = pytest.mark.skipif(not one_pass.has_compiler(), reason="there is no C++ compiler")
SHAPES = [(300, 200), (7,), (1,), (40_000,), (3, 5, 2, 2)]


def leaves():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in SHAPES]


def train(optimizer, params, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        optimizer.step()


@needs_compiler
def test_a_compiled_program_is_torchs_rmsprop():
    own, peer = leaves(), leaves()
    train(build("rmsprop", own, lr=0.01, alpha=0.9, momentum=0.5, weight_decay=0.1, compiled=True), own, 20)
    train(torch.optim.RMSprop(peer, lr=0.01, alpha=0.9, momentum=0.5, weight_decay=0.1), peer, 20)
    for left, right in zip(own, peer, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_torchs_fused_kernel_steps_where_there_is_one():
    """The same bits as torch's own optimizer; gradients stay."""
    for name, hp, peer_of in [
        ("adamw", {"weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True)),
        ("nesterov", {"momentum": 0.9}, lambda p: torch.optim.SGD(p, 0.01, 0.9, nesterov=True, fused=True)),
    ]:
        own, peer = leaves(), leaves()
        train(build(name, own, lr=0.01, **hp), own, 5)
        train(peer_of(peer), peer, 5)
        assert all(torch.equal(left, right) for left, right in zip(own, peer, strict=True))
        assert all(torch.equal(left.grad, right.grad) for left, right in zip(own, peer, strict=True))


def test_a_state_that_lies_otherwise_in_memory_is_stepped_right():
    """As that of a model in channels_last: the kernel reads memory, not strides."""
    start = torch.arange(24.0, dtype=torch.float64).view(2, 3, 2, 2)
    strided = [start.clone().to(memory_format=torch.channels_last).requires_grad_()]
    first = build("adam", strided, lr=0.1, compiled=False)
    train(first, strided, 1)
    plain = [strided[0].detach().clone(memory_format=torch.contiguous_format).requires_grad_()]
    second = build("adam", plain, lr=0.1)
    second.load_state_dict(first.state_dict())
    train(first, strided, 2)
    train(second, plain, 2)
    torch.testing.assert_close(plain[0], strided[0], rtol=1e-12, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_a_state_moves_between_one_pass_and_eager(name):
    params = leaves()
    straight = build(name, params, lr=0.01, compiled=True)
    train(straight, params, 3)
    copies = [param.detach().clone().requires_grad_() for param in params]
    resumed = build(name, copies, lr=0.01, compiled=False)
    resumed.load_state_dict(straight.state_dict())
    train(straight, params, 3, seed=2)
    train(resumed, copies, 3, seed=2)
    for left, right in zip(params, copies, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@needs_compiler
def test_a_gradient_that_is_not_finite_shows_in_steps_of_a_sign():
    param = torch.ones(5, requires_grad=True)
    param.grad = torch.tensor([1.0, math.nan, 0.0, math.inf, -1.0])
    build("signum", [param], lr=0.1, compiled=True).step()
    assert param.isnan().tolist() == [False, True, False, True, False]
    assert param.detach()[[0, 2, 4]].tolist() == pytest.approx([0.9, 1.0, 1.1])


def test_small_models_wait_for_no_compiler(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr(one_pass, "_program", refuse)
    params = leaves()
    train(build("lion", params), params, 1)
    with pytest.raises(AssertionError, match="compiled"):
        train(build("lion", params, compiled=True), params, 1)


@needs_compiler
def test_large_models_are_compiled_unless_told_otherwise(monkeypatch):
    asked = []
    monkeypatch.setattr(one_pass, "_program", lambda *arguments: lambda *tensors: asked.append(len(tensors)))
    monkeypatch.setattr(importlib.import_module("tuner.optimizers.build"), "WORTHWHILE", 50_000)
    params = leaves()
    train(build("lion", params, compiled=False), params, 1)
    train(build("lion", params, clip_norm=1.0), params, 1)
    train(build("muon", params), params, 1)
    assert not asked
    train(build("lion", params), params, 1)
    assert asked == [4, 4, 4]  # two large tensors, and all small ones joined
