"""What torch's users rely on: a norm over all groups, cycled momentum, numbers of other libraries, types of weights."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import defaults

RULES = list(catalogue())
CLIPPED = [name for name in RULES if catalogue()[name].hyperparameter("clip_norm")]


def parameters(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]
    for param in found:
        param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64) * 3
    return found


def test_a_step_over_two_groups_is_as_long_as_asked():
    p, q = parameters((1,), (1,))
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    before = torch.cat([p.detach(), q.detach()])
    build("sgd", [{"params": [p]}, {"params": [q]}], lr=1.0, clip_norm=0.1).step()
    assert (torch.cat([p.detach(), q.detach()]) - before).norm().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_by_norm_does_not_depend_on_how_parameters_are_grouped(name):
    """Nor on how many updates each has had: what torch's `clip_grad_norm_` does before the step, over everything."""
    shapes = ((3, 2), (4,), (2, 3), ())
    ours, theirs = parameters(*shapes), parameters(*shapes)
    clipping = {"clip_value": 2.5, "clip_norm": 0.5}
    groups = [{"params": ours[:1]}, {"params": ours[1:3]}, {"params": ours[3:]}]
    optimizer = build(name, groups, lr=0.1, **clipping)
    plain = build(name, [{"params": theirs[:1]}, {"params": theirs[1:3]}, {"params": theirs[3:]}], lr=0.1)
    for step in range(3):
        for index, (param, twin) in enumerate(zip(ours, theirs, strict=True)):
            fresh = parameters(*shapes, seed=step)[index].grad
            param.grad = twin.grad = None
            if (step, index) != (1, 2):
                param.grad, twin.grad = fresh.clone(), fresh.clone()
        torch.nn.utils.clip_grad_value_(theirs, 2.5)
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        optimizer.step()
        plain.step()
    for param, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, twin, rtol=1e-11, atol=1e-11)


def test_each_group_has_its_own_bound_on_the_same_norm():
    p, q, r = parameters((1,), (1,), (1,))
    for param, value in ((p, 2.0), (q, 3.0), (r, 6.0)):
        param.data.zero_()
        param.grad = torch.full_like(param, value)
    groups = [{"params": [p], "clip_norm": 0.7}, {"params": [q]}, {"params": [r], "clip_norm": 100.0}]
    build("sgd", groups, lr=1.0).step()
    assert [-param.item() for param in (p, q, r)] == pytest.approx([0.2, 3.0, 6.0], rel=1e-6)


def sgd(params, hp):
    return torch.optim.SGD(params, **hp)


TORCH = {
    "momentum": (sgd, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": (lambda params, hp: torch.optim.RMSprop(params, **hp), {"lr": 0.01, "momentum": 0.9}),
    "adam": (lambda params, hp: torch.optim.Adam(params, **hp), {"lr": 0.01}),
    "amsgrad": (lambda params, hp: torch.optim.Adam(params, amsgrad=True, **hp), {"lr": 0.01}),
    "adamw": (lambda params, hp: torch.optim.AdamW(params, **hp), {"lr": 0.01, "weight_decay": 0.1}),
}
SCHEDULERS = {
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, max_lr=0.05, total_steps=12),
    "CyclicLR": lambda optimizer: CyclicLR(optimizer, base_lr=0.01, max_lr=0.05, step_size_up=3),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", TORCH)
def test_schedulers_cycle_momentum_by_default_as_with_torchs_optimizer(name, scheduler):
    make, hp = TORCH[name]
    ours, theirs = parameters((3, 2), (4,)), parameters((3, 2), (4,))
    known = {key: value for key, value in hp.items() if key != "nesterov"}
    optimizers = build(name, ours, **known), make(theirs, hp)
    schedules = [SCHEDULERS[scheduler](optimizer) for optimizer in optimizers]
    for step in range(11):
        for param, twin in zip(ours, theirs, strict=True):
            param.grad, twin.grad = param.detach() - step % 3, twin.detach() - step % 3
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step == 5:  # what a scheduler wrote survives a file
            file = io.BytesIO()
            torch.save(optimizers[0].state_dict(), file)
            file.seek(0)
            optimizers[0].load_state_dict(torch.load(file, weights_only=True))
    for param, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, twin, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_momentum_is_cycled_in_every_rule_that_has_one(name):
    (param,) = parameters((2, 2))
    optimizer = build(name, [param])
    if not {"momentum", "beta1"} & defaults(name).keys():
        with pytest.raises(ValueError, match="must support momentum or beta1"):
            OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
        return
    OneCycleLR(optimizer, max_lr=0.1, total_steps=5, base_momentum=0.8, max_momentum=0.93)
    (group,) = optimizer.param_groups
    assert group["momentum" if "momentum" in defaults(name) else "beta1"] == 0.93


def test_betas_are_a_view_of_the_two_hyperparameters():
    (param,) = parameters((2,))
    optimizer = build("adamw", [param], beta1=0.8, beta2=0.95)
    for made in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (group,) = made.param_groups
        assert group["betas"] == group.get("betas") == (0.8, 0.95) and "betas" in group
        group["betas"] = (0.7, 0.9)
        assert (group["beta1"], group["beta2"]) == (0.7, 0.9)
        assert "betas" not in made.state_dict()["param_groups"][0]
    assert "betas" not in build("muon", [param]).param_groups[0]


NUMBERS = [np.float64, np.float32, np.array, lambda x: np.array([x]), torch.tensor, lambda x: torch.tensor([x])]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_numpy_and_torch_are_numbers(number):
    p, q, r = parameters((2, 2), (2, 2), (2, 2))
    optimizer = build("shampoo", [{"params": [p]}, {"params": [q], "lr": number(0.25)}], lr=number(0.5))
    optimizer.step()
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5, 0.25]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)
    stack = Stacked("sgd", {"r": r.detach()[None]}, {"lr": number(0.5)})
    assert stack.hp["lr"].tolist() == [0.5]


def test_whole_numbers_and_names_of_numpy_are_those_of_python():
    (param,) = parameters((2, 2))
    optimizer = build("shampoo", [param], refresh=np.int64(3), graft=np.str_("sgd"))
    assert type(optimizer.param_groups[0]["refresh"]) is int and type(optimizer.param_groups[0]["graft"]) is str
    with pytest.raises(InvalidInput, match="lr is nan"):
        build("sgd", [param], lr=np.float32(math.nan))
    with pytest.raises(InvalidInput, match="lr is"):
        build("sgd", [param], lr=np.array([0.1, 0.2]))
    vector = Stacked("sgd", {"p": param.detach()[:, None]}, {"lr": np.array([0.1, 0.2])})
    assert vector.hp["lr"].tolist() == [0.1, 0.2]


def test_weights_in_half_precision_are_refused_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(torch.bfloat16)
    with pytest.raises(InvalidInput) as caught:
        build("adamw", model)
    (fault,) = caught.value.faults
    assert fault.field == "params[0]"
    assert "bfloat16, as that of 3 more" in fault.message and "torch.autocast" in fault.message
    for single in (nn.Parameter(torch.ones(2, dtype=torch.float16)), nn.Parameter(torch.ones(2, dtype=torch.cfloat))):
        with pytest.raises(InvalidInput, match="allowed are float32 and float64"):
            build("adamw", [{"params": single}])


def test_groups_of_several_types_are_stepped_each_in_its_own():
    (p,), q = parameters((2, 3)), nn.Parameter(torch.ones(2, 3))
    q.grad = torch.ones(2, 3)
    for name in ("muon", "adamw", "prodigy"):
        alone = copy.deepcopy(q)
        alone.grad = q.grad.clone()
        optimizer = build(name, [p, q])
        optimizer.step()
        if name != "prodigy":  # which has one estimate for both
            build(name, [alone]).step()
            assert torch.equal(alone, q)
        assert q.dtype == torch.float32 and p.dtype == torch.float64
    with pytest.raises(InvalidInput, match=r"more than one type, torch\.float32, torch\.float64; lbfgs needs one"):
        build("lbfgs", [p, q]).step(lambda: (p.sum() + q.sum()).detach())


def test_a_stack_of_several_types_is_refused_at_once():
    params = {"a": torch.ones(2, 3), "b": torch.ones(2, 3, dtype=torch.float64)}
    with pytest.raises(InvalidInput, match=r"params\.b: its type is torch.float64; that of a is torch.float32"):
        Stacked("muon", params, {})
