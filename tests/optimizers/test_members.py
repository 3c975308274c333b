"""Experts' weights [E, in, out] whose role is matrix: every matrix steps as a parameter of its own."""

import copy

import pytest
import torch
from engine_cases import run_until_idle, spec
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuner.engine import Stack, solo
from tuner.optimizers import Stacked, build, catalogue
from tuner.optimizers.catalogue import make_rule
from tuner.optimizers.members import apart
from tuner.workloads import Task

TRIALS, EXPERTS, IN, OUT, STEPS = 2, 3, 5, 4, 4
SEEN = [name for name in catalogue() if make_rule(name, {}, {}).sees_matrices]
"""Rules for which a parameter's shape and role matter."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_there_are_rules_that_see_matrices_and_others() -> None:
    assert {"muon", "scion", "shampoo", "soap", "psgd_kron", "steepest", "adafactor"} <= set(SEEN)
    assert not {"sgd", "adamw", "lbfgs", "gd_exact"} & set(SEEN)


def test_apart_gives_views_of_every_matrix_turned() -> None:
    whole = {"a": random(2, 3, seed=0), "b": random(TRIALS, EXPERTS, IN, OUT, seed=1), "c": random(2, seed=2)}
    pieces = apart(whole, ["b"])
    assert list(pieces) == ["a", "b[0]", "b[1]", "b[2]", "c"] and pieces["b[1]"].shape == (TRIALS, OUT, IN)
    pieces["b[1]"].zero_()
    assert whole["b"][:, 1].abs().sum() == 0 and whole["b"][:, 2].abs().sum() > 0


@pytest.mark.parametrize("name", SEEN)
def test_a_stack_of_matrices_steps_as_the_matrices_themselves(name: str) -> None:
    """As `Stacked` steps them, and as the torch optimizer does; each matrix turned to [out, in]."""
    whole = random(TRIALS, EXPERTS, IN, OUT, seed=3)
    bias = random(TRIALS, OUT, seed=4)
    turned = {f"w{e}": whole[:, e].mT.contiguous() for e in range(EXPERTS)}
    one = Stacked(name, {"w": whole.clone(), "bias": bias.clone()}, {}, roles={"w": "matrix"})
    many = Stacked(name, {**turned, "bias": bias.clone()}, {}, roles=dict.fromkeys(turned, "matrix"))
    solo = nn.Parameter(whole[0].clone())
    solo_bias = nn.Parameter(bias[0].clone())
    optimizer = build(name, [("w", solo), ("bias", solo_bias)], roles={"w": "matrix"})
    for step in range(STEPS):
        grad, grad_bias = random(TRIALS, EXPERTS, IN, OUT, seed=10 + step), random(TRIALS, OUT, seed=50 + step)
        one.step({"w": grad, "bias": grad_bias})
        many.step({**{f"w{e}": grad[:, e].mT.contiguous() for e in range(EXPERTS)}, "bias": grad_bias})
        solo.grad, solo_bias.grad = grad[0].clone(), grad_bias[0].clone()
        optimizer.step()
        if step == 1:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = build(name, [("w", solo), ("bias", solo_bias)], roles={"w": "matrix"})
            optimizer.load_state_dict(state)
    for e in range(EXPERTS):
        torch.testing.assert_close(one.params["w"][:, e].mT, many.params[f"w{e}"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(solo.data, one.params["w"][0], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(one.params["w"], whole)


class Experts(nn.Module):
    """A soft mixture of experts whose weights are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(7, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 7, 9) / 3)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("be,beo->bo", self.gate(x).softmax(1), torch.einsum("bi,eio->beo", x, self.up))
        return self.head(torch.tanh(mixed))  # type: ignore[no-any-return]


X = torch.randn(48, 7, generator=torch.Generator().manual_seed(1))
TASK = Task(Experts, cross_entropy, (X, torch.arange(48) % 4), (X, torch.arange(48) % 4), roles={"up": "matrix"})
MODEL_RULES = ["muon", "scion", "soap", "shampoo"]


@pytest.mark.parametrize("name", MODEL_RULES)
def test_a_stack_of_trials_trains_experts_as_an_own_loop_does(name: str) -> None:
    stack = Stack(TASK, width=3, micro_batch=8, dtype=torch.float64)
    slots = [stack.admit(spec(seed, name, batch_size=16, seed=seed, examples=10**6, lr=0.01)) for seed in (4, 5)]
    for tick in range(2 * STEPS):
        stack.tick()
        if tick == 4:  # in the middle of a step: the state goes into another slot
            snapshot = stack.snapshot(slots[1])
            stack.evict(slots[1])
            stack.restore(2, snapshot)
    found = stack.parameters(2)
    model = solo.model_of(TASK, 5).double()
    optimizer = build(name, model, roles=TASK.roles, lr=0.01)
    for x, y, *_ in solo.batches(TASK, 5, 16, STEPS):
        optimizer.zero_grad()
        cross_entropy(model(x.double()), y).backward()
        optimizer.step()
    for key, value in model.named_parameters():
        torch.testing.assert_close(found[key], value.data, rtol=1e-8, atol=1e-10)


def test_its_bits_do_not_depend_on_the_slot() -> None:
    """An odd size: no expert but the first starts at a multiple of 64 bytes."""
    ends = []
    for before in (0, 2):
        stack = Stack(TASK, width=4, micro_batch=8)
        stack.keep_weights = True
        for key in range(before):
            stack.admit(spec(key, "muon", batch_size=16, seed=key, examples=10**4))
        _, ended = run_until_idle(stack, [spec(9, "muon", batch_size=16, seed=9, examples=16 * STEPS)], until=9)
        ends.append(ended[9].weights)
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
