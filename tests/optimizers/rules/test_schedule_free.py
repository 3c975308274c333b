"""Schedule-free rules: three sequences and their identities, and the switch between them in a torch optimizer."""

import io

import pytest
import schedulefree
import torch
from torch import nn

from tuner.errors import InvalidInput
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import rule_class

DOUBLE = torch.float64
RULES = ["schedule_free_sgd", "schedule_free_adamw"]
BETA = {"schedule_free_sgd": "momentum", "schedule_free_adamw": "beta1"}


def gradient(step, like):
    return torch.sin(like + step) + 0.1 * like


@pytest.fixture
def start():
    return torch.tensor([[1.0, -2.0, 0.5], [3.0, -0.25, 4.0]], dtype=DOUBLE)


def sequences(name, start, steps, **hp):
    """Return z_1 ... z_t, x_t and y_t of a run, and the gradients' step sizes lr_t."""
    stack = Stacked(name, {"p": start.clone()}, hp)
    leading = []
    for step in range(steps):
        stack.step({"p": gradient(step, stack.params["p"])})
        leading.append(stack.state.buffers["z"]["p"].clone())
    return leading, stack.evaluation_params()["p"], stack.params["p"]


def test_near_beta_0_the_result_is_the_running_mean_of_sgds_iterates(start):
    """Gradients are then taken at z: plain SGD leads."""
    leading, result, _ = sequences("schedule_free_sgd", start, 40, lr=0.1, momentum=1e-4)
    plain = Stacked("sgd", {"p": start.clone()}, {"lr": 0.1})
    iterates = []
    for step in range(40):
        plain.step({"p": gradient(step, plain.params["p"])})
        iterates.append(plain.params["p"].clone())
    torch.testing.assert_close(leading[-1], iterates[-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result, torch.stack(leading).mean(0), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(result, torch.stack(iterates).mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", RULES)
def test_y_lies_between_z_and_the_weighted_average_x(name, start):
    """With x worked out apart: weights t^r · (largest lr so far)^power, one beta and warm-up per trial."""
    beta, warmup = torch.tensor([0.9, 0.6], dtype=DOUBLE), torch.tensor([3.0, 0.0], dtype=DOUBLE)
    hp = {BETA[name]: beta, "lr": 0.05, "warmup_steps": warmup, "r": 1.5, "weight_lr_power": 2.0}
    leading, result, trained = sequences(name, start, 12, **hp)
    t = torch.arange(1, 13, dtype=DOUBLE)
    lr = 0.05 * torch.where(t < warmup[:, None], t / warmup[:, None].clamp(min=1), torch.ones(1).double())
    weights = t**1.5 * lr**2
    x = (torch.stack(leading, 1) * weights[:, :, None]).sum(1) / weights.sum(1)[:, None]
    torch.testing.assert_close(result, x, rtol=1e-13, atol=1e-13)
    mixed = (1 - beta[:, None]) * leading[-1] + beta[:, None] * x
    torch.testing.assert_close(trained, mixed, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", RULES)
def test_before_the_first_step_the_result_is_the_start(name, start):
    stack = Stacked(name, {"p": start.clone()}, {})
    assert torch.equal(stack.evaluation_params()["p"], start)


def test_steps_without_a_learning_rate_do_not_count(start):
    """A warm-up from 0, or a warm-up of the moments: 0 / 0 is no share."""
    stack = Stacked("schedule_free_sgd", {"p": start.clone()}, {"lr": 0.0})
    stack.step({"p": start})
    assert torch.equal(stack.evaluation_params()["p"], start)
    stack.hp["lr"].fill_(0.5)
    stack.step({"p": start})
    torch.testing.assert_close(stack.evaluation_params()["p"], start * 0.5, rtol=1e-13, atol=0)


def test_the_sum_of_weights_keeps_growing_in_float32():
    """Rounded to float32 alone it would stay at 2^24, and so would the share of each further step."""
    stack = Stacked("schedule_free_sgd", {"p": torch.zeros(1, 1)}, {"lr": 1.0})
    stack.state.trial["weight_sum"][0, 0] = 2.0**24
    for _ in range(4):
        stack.step({"p": torch.zeros(1, 1)})
    assert stack.state.trial["weight_sum"].double().sum().item() == 2.0**24 + 4


def network(kind=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(kind)


INPUTS = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(6, 4)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        (model(INPUTS.to(model[0].weight.dtype)) - 1).square().mean().backward()
        optimizer.step()


def values(model):
    return [param.detach().clone() for param in model.parameters()]


def test_eval_and_train_are_those_of_the_schedulefree_package():
    ours, theirs = network(), network()
    hp = {"lr": 0.05, "weight_decay": 0.01, "warmup_steps": 3}
    mine = build("schedule_free_adamw", groups_of(ours), **hp)
    other = schedulefree.AdamWScheduleFree(groups_of(theirs), **hp)
    other.train()
    for _ in range(3):
        train(ours, mine, 5)
        train(theirs, other, 5)
        for switch in ("train", "eval", "eval", "train"):
            getattr(mine, switch)()
            getattr(other, switch)()
            torch.testing.assert_close(values(ours), values(theirs), rtol=1e-12, atol=1e-12)


def groups_of(model):
    return [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters()}]


@pytest.mark.parametrize("name", RULES)
def test_looking_at_the_result_changes_no_bit_of_the_run(name):
    looked, straight = network(torch.float32), network(torch.float32)
    first, second = (build(name, model, lr=0.05) for model in (looked, straight))
    for _ in range(4):
        train(looked, first, 2)
        train(straight, second, 2)
        first.eval()
        assert not all(torch.equal(a, b) for a, b in zip(values(looked), values(straight), strict=True))
        first.train()
        assert all(torch.equal(a, b) for a, b in zip(values(looked), values(straight), strict=True))


@pytest.mark.parametrize("name", RULES)
def test_a_state_saved_at_the_result_continues_bit_for_bit(name):
    model = network(torch.float32)
    optimizer = build(name, model, lr=0.05)
    train(model, optimizer, 3)
    optimizer.eval()
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    copied = network(torch.float32)
    resumed = build(name, copied)
    weights, state = torch.load(file, weights_only=True)
    copied.load_state_dict(weights)
    resumed.load_state_dict(state)
    with pytest.raises(InvalidInput, match=r"call train\(\) before the next step"):
        resumed.step()
    for each in (optimizer, resumed):
        each.train()
    train(model, optimizer, 3)
    train(copied, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(values(model), values(copied), strict=True))


@pytest.mark.parametrize(
    "name", [name for name in catalogue() if not rule_class(name).averages and name != "newton_cg"]
)
def test_eval_and_train_do_nothing_to_rules_that_do_not_average(name):
    model = network()
    optimizer = build(name, model)
    optimizer.step(lambda: backward(model))
    before, keys = values(model), optimizer.state_dict()["state"][0].keys()
    optimizer.eval()
    assert all(torch.equal(a, b) for a, b in zip(before, values(model), strict=True))
    assert optimizer.state_dict()["state"][0].keys() == keys
    optimizer.step(lambda: backward(model))
    moved = values(model)
    optimizer.train()
    assert all(torch.equal(a, b) for a, b in zip(moved, values(model), strict=True))


def backward(model):
    model.zero_grad()
    loss = (model(INPUTS) - 1).square().mean()
    loss.backward()
    return loss.item()


def test_a_beta_of_0_or_1_is_refused():
    for value in (0.0, 1.0):
        with pytest.raises(InvalidInput, match=r"allowed is a number in \(0, 1\)"):
            build("schedule_free_sgd", network(), momentum=value)
