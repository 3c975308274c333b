"""Clipping, other kinds of weight decay and moment warm-up, around every rule that has them: right, and per trial."""

import math

import pytest
import torch
from engine_cases import small_task
from rule_oracles import ROLES, Quadratic, configurations, gathering

from tuner.engine import Row, Stack, TrialSpec
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import rule_class
from tuner.optimizers.treatment import DECAY_ROLES

RULES = list(catalogue())
CLIPPED = [name for name in RULES if catalogue()[name].hyperparameter("clip_norm")]
WARMED = [name for name in RULES if catalogue()[name].hyperparameter("moment_warmup")]
DECAYING = [name for name in RULES if rule_class(name).decay]
TRIALS = 4


def trained(name, hp, steps=4, gradients=None, dtype=torch.float64):
    """Train stacked trials; return the stack and the parameters before each step."""
    problem = Quadratic(dtype)
    stack = Stacked(name, problem.start(TRIALS), {**configurations(name, TRIALS), **hp}, roles=ROLES)
    for step in range(steps):
        grads = problem.gradients(stack.params, step)
        stack.step(gradients(grads) if gradients else grads, problem.at(step))
    return stack


def assert_same_bits(left, right):
    for key in left:
        assert torch.equal(left[key], right[key]), key


def by_torch(clip):
    """Clip each trial's gradients with a function of torch's on leaves that hold them."""

    def clipped(grads):
        result = {name: grad.clone() for name, grad in grads.items()}
        for trial in range(TRIALS):
            leaves = {name: torch.zeros_like(grad[trial], requires_grad=True) for name, grad in grads.items()}
            for name, leaf in leaves.items():
                leaf.grad = grads[name][trial].clone()
            clip(leaves.values(), trial)
            for name, leaf in leaves.items():
                result[name][trial] = leaf.grad
        return result

    return clipped


@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_by_norm_is_torchs_for_each_trial(name):
    most = torch.tensor([0.5, 5.0, 1e6, 0.0], dtype=torch.float64)

    def clip(leaves, trial):
        torch.nn.utils.clip_grad_norm_(leaves, float(most[trial]) or math.inf)

    expected = trained(name, {}, gradients=by_torch(clip))
    for key, value in trained(name, {"clip_norm": most}).params.items():
        torch.testing.assert_close(value, expected.params[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_by_value_is_torchs_for_each_trial(name):
    most = torch.tensor([0.1, 1.0, 1e6, 0.0], dtype=torch.float64)

    def clip(leaves, trial):
        torch.nn.utils.clip_grad_value_(leaves, float(most[trial]) or math.inf)

    expected = trained(name, {}, gradients=by_torch(clip))
    assert_same_bits(trained(name, {"clip_value": most}).params, expected.params)


@pytest.mark.parametrize("name", CLIPPED)
def test_a_trial_that_clips_nothing_has_the_bits_of_one_without_the_treatment(name):
    most = torch.tensor([1e-3, 0.0, 0.0, 1e9], dtype=torch.float64)
    plain = trained(name, {}, dtype=torch.float32)
    for hp in ({"clip_norm": most}, {"clip_value": most}):
        some = trained(name, hp, dtype=torch.float32)
        assert_same_bits({k: v[1:] for k, v in some.params.items()}, {k: v[1:] for k, v in plain.params.items()})


@pytest.mark.parametrize("name", WARMED)
def test_during_moment_warm_up_only_the_memory_moves(name):
    waits = torch.tensor([0.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    start = Quadratic(torch.float64).start(TRIALS)
    stack = trained(name, {"moment_warmup": waits}, steps=3)
    assert all(torch.equal(value[2:], start[key][2:]) for key, value in stack.params.items())
    assert not any(torch.equal(value[row], start[key][row]) for key, value in stack.params.items() for row in (0, 1))
    assert all((value[3] != 0).any() for value in gathering(name, stack.state.tensors()))


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("roles", DECAY_ROLES)
def test_each_kind_of_decay_is_what_its_formula_says(name, roles):
    """The rule itself, with no decay of its own, on gradients and parameters that were decayed by hand."""
    for mode in ("l2", "decoupled", "independent"):
        if mode == rule_class(name).decay and roles == "all":
            continue  # the rule's own business
        hp = {**configurations(name, TRIALS), "weight_decay": 0.01}
        problem = Quadratic(torch.float64)
        start = problem.start(TRIALS)
        treated = Stacked(
            name,
            {key: value.clone() for key, value in start.items()},
            {**hp, "weight_decay_mode": mode, "weight_decay_roles": roles},
            roles=ROLES,
        )
        plain = Stacked(name, start, {**hp, "weight_decay": 0.0}, roles=ROLES)
        for step in range(3):
            treated.step(problem.gradients(treated.params, step))
            grads = problem.gradients(plain.params, step)
            for key, param in plain.params.items():
                if ROLES[key] not in DECAY_ROLES[roles]:
                    continue
                if mode == "l2":
                    grads[key] = grads[key] + 0.01 * param
                else:
                    rate = hp["lr"].reshape(-1, *[1] * (param.dim() - 1)) if mode == "decoupled" else 1.0
                    param.mul_(1 - 0.01 * rate)
            plain.step(grads)
        for key, value in plain.params.items():
            torch.testing.assert_close(treated.params[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DECAYING)
def test_a_rules_own_kind_of_decay_said_aloud_changes_no_bit(name):
    own = rule_class(name).decay
    assert_same_bits(trained(name, {}).params, trained(name, {"weight_decay_mode": own}).params)


def test_the_torch_optimizer_clips_and_decays_by_role():
    model = torch.nn.Linear(3, 2).double()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    options = {"weight_decay": 0.1, "weight_decay_mode": "independent", "weight_decay_roles": "no_vectors"}
    optimizer = build("sgd", model, lr=0.5, clip_norm=1.0, **options)
    model(torch.ones(1, 3).double()).sum().mul(100).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    grads = {key: value.grad / (norm + 1e-6) for key, value in model.named_parameters()}
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before["weight"] * 0.9 - 0.5 * grads["weight"])
    torch.testing.assert_close(model.bias.detach(), before["bias"] - 0.5 * grads["bias"])


@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_treated_trials_share_a_stack_with_others(path):
    """Each alone gives the very bits that it gives beside the others."""
    kinds = [
        {},
        {"clip_norm": 0.5},
        {"weight_decay_mode": "independent", "weight_decay": 1e-4, "weight_decay_roles": "hidden"},
        {"moment_warmup": 3, "clip_value": 0.01},
    ]

    stack = Stack(small_task(), width=5, micro_batch=4, path=path)
    assert stack.path == path

    def losses(chosen):
        for key in chosen:
            params = {"optimizer": "adamw", "batch_size": 16, "lr": 1e-2, **kinds[key]}
            stack.admit(TrialSpec(key, params, 0, 16 * 12))
        found = {}
        while stack.busy:
            for event in stack.tick():
                if isinstance(event, Row) and "valid_loss" in event.metrics:
                    found[event.key] = event.metrics["valid_loss"]
        return found

    together = losses(range(4))
    assert len(set(together.values())) == 4
    for key in range(4):
        assert losses([key]) == {key: together[key]}
