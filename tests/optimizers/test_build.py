"""The torch adapter behaves as torch's own optimizers do: groups, closures, state, schedulers, refusals."""

import copy
import io

import pytest
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import rule_class

RULES = list(catalogue())


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def train(network, optimizer, steps):
    inputs = torch.linspace(-1, 1, 24).reshape(6, 4)
    rule = rule_class(getattr(optimizer, "name", "sgd"))

    def closure():
        optimizer.zero_grad()
        loss = network(inputs).square().mean()
        if not rule.needs_curvature:
            loss.backward()
        return loss

    for _ in range(steps):
        if rule.needs_loss:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize("name", RULES)
def test_state_round_trips_through_a_file(name):
    network = model()
    optimizer = build(name, network, lr=0.01)
    train(network, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copied = copy.deepcopy(network)
    resumed = build(name, copied, lr=0.5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.param_groups[0]["lr"] == 0.01
    train(network, optimizer, 3)
    train(copied, resumed, 3)
    assert same(network, copied)


@pytest.mark.parametrize("name", RULES)
def test_loading_a_live_state_shares_no_memory(name):
    network = model()
    optimizer = build(name, network, lr=0.01)
    train(network, optimizer, 2)
    copied = copy.deepcopy(network)
    other = build(name, copied)
    other.load_state_dict(optimizer.state_dict())
    train(network, optimizer, 2)
    train(copied, other, 2)
    assert same(network, copied)


def test_a_deep_copy_continues_alone():
    network = model()
    optimizer = build("muon", network)
    train(network, optimizer, 2)
    copied_network, copied = copy.deepcopy((network, optimizer))
    train(network, optimizer, 2)
    train(copied_network, copied, 2)
    assert same(network, copied_network)


@pytest.mark.parametrize("name", [name for name in RULES if not rule_class(name).needs_loss])
def test_it_is_the_stacked_rule(name):
    network = model()
    params = {key: value.detach().clone()[None] for key, value in network.named_parameters()}
    optimizer = build(name, network, lr=0.02, compiled=False)
    stack = Stacked(name, params, {"lr": 0.02}, roles={"4.weight": "head"})
    for _ in range(3):
        train(network, optimizer, 1)
        stack.step({key: value.grad[None] for key, value in network.named_parameters()})
    assert all(torch.equal(value, params[key][0]) for key, value in network.named_parameters())


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned():
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = build("sgd", [p], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).detach() == 4.0
    assert p.detach() == 1.0
    assert optimizer.step() is None


def test_groups_have_their_own_hyperparameters():
    p, q, r = (nn.Parameter(torch.ones(1)) for _ in range(3))
    optimizer = build("sgd", [{"params": [p]}, {"params": q, "lr": 0.5}], lr=0.25)
    optimizer.add_param_group({"params": [r], "weight_decay": 1.0})
    for param in (p, q, r):
        param.grad = torch.ones(1)
    optimizer.step()
    assert [param.detach().item() for param in (p, q, r)] == [0.75, 0.5, 0.5]
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5, 0.25]


def test_parameters_without_gradient_wait_and_keep_their_own_step_count():
    early, late = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = build("adamw", [early, late], lr=0.1, eps=0.0)
    early.grad = torch.ones(1)
    optimizer.step()
    assert late.detach() == 0.0
    assert late not in optimizer.state
    late.grad = torch.ones(1)
    optimizer.step()
    # Its first step, bias-corrected as such, has the full size.
    assert late.detach().item() == pytest.approx(-0.1, rel=1e-6)
    assert [float(optimizer.state[param]["step"]) for param in (early, late)] == [2.0, 1.0]


@pytest.mark.parametrize("scheduler", ["LinearLR", "CosineAnnealingLR", "ExponentialLR", "OneCycleLR"])
def test_torchs_schedulers_drive_it(scheduler):
    options = {
        "LinearLR": {"total_iters": 5},
        "CosineAnnealingLR": {"T_max": 5},
        "ExponentialLR": {"gamma": 0.9},
        "OneCycleLR": {"max_lr": 0.2, "total_steps": 6},
    }[scheduler]
    ours, theirs = model(), model()
    optimizers = (build("momentum", ours, lr=0.1, momentum=0.9), torch.optim.SGD(theirs.parameters(), 0.1, 0.9))
    for network, optimizer in zip((ours, theirs), optimizers, strict=True):
        schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **options)
        for _ in range(5):
            train(network, optimizer, 1)
            schedule.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_module_brings_its_roles_and_an_argument_overrides_them():
    assert build("muon", model()).param_groups[0]["roles"] == ["matrix", "vector"] * 2 + ["head", "vector"]
    overridden = build("muon", model(), roles={"0.weight": "embedding"})
    assert overridden.param_groups[0]["roles"][0] == "embedding"
    shapes = [nn.Parameter(torch.zeros(shape)) for shape in [(2, 2), (2, 2, 1, 1), (2,)]]
    assert build("muon", shapes).param_groups[0]["roles"] == ["matrix", "convolution", "vector"]


def test_tied_weights_are_stepped_once():
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    network[1].weight = network[0].weight
    optimizer = build("sgd", network, lr=1.0)
    network[0].weight.grad = torch.ones(3, 3)
    before = network[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(network[0].weight, before - 1)


def test_any_memory_layout_is_stepped_in_place():
    p = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    twin = nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
    grad = torch.randn(4, 3, 2, 2)
    for param in (p, twin):
        param.grad = grad.clone()
        build("muon", [param]).step()
    assert torch.equal(p, twin)


def one(*shape, dtype=torch.float32):
    return nn.Parameter(torch.zeros(shape, dtype=dtype))


def twice():
    p = one(2)
    return [p, p]


@pytest.mark.parametrize(
    ("error", "message", "attempt"),
    [
        (InvalidInput, "'adm' is not known; known are sgd", lambda: build("adm", [one(2)])),
        (
            InvalidInput,
            "adamw has no such hyperparameter; it has lr, beta1",
            lambda: build("adamw", [one(2)], betas=0.9),
        ),
        (InvalidInput, "lr is -1.*a number in \\[0, inf\\)", lambda: build("sgd", [one(2)], lr=-1)),
        (InvalidInput, "momentum is 1.0", lambda: build("momentum", [one(2)], momentum=1.0)),
        (InvalidInput, "lr is nan", lambda: build("sgd", [one(2)], lr=float("nan"))),
        (InvalidInput, "weigth_decay: sgd has no", lambda: build("sgd", [{"params": [one(2)], "weigth_decay": 0}])),
        (InvalidInput, "beta2 is 2", lambda: build("adamw", [{"params": [one(2)], "beta2": 2}])),
        (InvalidInput, "complex64; allowed are float32", lambda: build("sgd", [one(2, dtype=torch.complex64)])),
        (InvalidInput, "bfloat16; allowed are float32", lambda: build("sgd", [one(2, dtype=torch.bfloat16)])),
        (InvalidInput, "given twice", lambda: build("sgd", twice())),
        (InvalidInput, "a matrix needs two dims", lambda: build("muon", [("b", one(2))], roles={"b": "matrix"})),
        (
            InvalidInput,
            "roles.c: no such parameter; known are b",
            lambda: build("muon", [("b", one(2))], roles={"c": "head"}),
        ),
        (ValueError, "empty parameter list", lambda: build("sgd", [])),
        (ValueError, "empty parameter list", lambda: build("sgd", nn.ReLU())),
        (ValueError, "more than one parameter group", lambda: build("sgd", [{"params": p} for p in twice()])),
        (ValueError, "non-leaf", lambda: build("sgd", [one(2) * 2])),
        (TypeError, "iterable of Tensors or dicts", lambda: build("sgd", one(2))),
        (TypeError, "ordered collections", lambda: build("sgd", [{"params": {one(2)}}])),
        (TypeError, "can only optimize Tensors", lambda: build("sgd", [3])),
    ],
)
def test_refusals(error, message, attempt):
    with pytest.raises(error, match=message):
        attempt()


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    optimizer = build("adamw", embedding)
    with pytest.raises(InvalidInput, match="sparse_coo; allowed is a dense gradient"):
        optimizer.step()


def test_a_state_of_another_optimizer_is_refused():
    p = one(2)
    with pytest.raises(InvalidInput, match="they lack beta1, beta2, eps, moment_warmup: not a state of adamw"):
        build("adamw", [p]).load_state_dict(build("sgd", [p]).state_dict())


def test_muon_alone_multiplies_large_matrices_together():
    """Their bits may then depend on each other's number, their numbers may not."""
    generator = torch.Generator().manual_seed(0)
    start, grads = (torch.randn(3, 144, 136, generator=generator, dtype=torch.float64) for _ in range(2))
    params = [value.clone().requires_grad_() for value in start]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    build("muon", list(zip("abc", params, strict=True)), roles=dict.fromkeys("abc", "matrix"), lr=0.1).step()
    stack = Stacked("muon", {"a": start.clone()}, {"lr": 0.1}, roles={"a": "matrix"})
    stack.step({"a": grads})
    torch.testing.assert_close(torch.stack([p.detach() for p in params]), stack.params["a"], rtol=1e-12, atol=1e-12)
